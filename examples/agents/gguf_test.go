//go:build linux && amd64

package agents

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// tinyModel returns a llama model in the GGUF format, version 3: two layers of
// random weights, and a vocabulary of bytes and a few syllables. It says nonsense,
// the same for the same seed, and is 0.6 MB.
func tinyModel(seed uint64) []byte {
	const width, hidden, layers, heads, room = 64, 128, 2, 4, 512
	random := rand.New(rand.NewPCG(seed, seed))

	tokens, types := []string{"<unk>", "<s>", "</s>"}, []int32{2, 3, 3} // unknown, control
	for b := range 256 {
		tokens, types = append(tokens, fmt.Sprintf("<0x%02X>", b)), append(types, 6)
	}
	for _, first := range "bdfgklmnprst" {
		for _, second := range "aeiou" {
			tokens, types = append(tokens, string(first)+string(second)), append(types, 1)
		}
	}
	scores := make([]float32, len(tokens))
	for i := range scores {
		scores[i] = -float32(i)
	}

	var w gguf
	w.set("general.architecture", "llama")
	w.set("general.name", "tiny")
	w.set("llama.context_length", uint32(room))
	w.set("llama.embedding_length", uint32(width))
	w.set("llama.block_count", uint32(layers))
	w.set("llama.feed_forward_length", uint32(hidden))
	w.set("llama.attention.head_count", uint32(heads))
	w.set("llama.attention.head_count_kv", uint32(heads))
	w.set("llama.attention.layer_norm_rms_epsilon", float32(1e-5))
	w.set("llama.rope.dimension_count", uint32(width/heads))
	w.set("llama.vocab_size", uint32(len(tokens)))
	w.set("tokenizer.ggml.model", "llama")
	w.set("tokenizer.ggml.tokens", tokens)
	w.set("tokenizer.ggml.scores", scores)
	w.set("tokenizer.ggml.token_type", types)
	w.set("tokenizer.ggml.unknown_token_id", uint32(0))
	w.set("tokenizer.ggml.bos_token_id", uint32(1))
	w.set("tokenizer.ggml.eos_token_id", uint32(2))

	weights := func(name string, dims ...uint64) {
		n := uint64(1)
		for _, d := range dims {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(random.NormFloat64()) * 0.3
			if len(dims) == 1 { // of a norm
				values[i] = 1
			}
		}
		w.tensor(name, dims, values)
	}
	weights("token_embd.weight", width, uint64(len(tokens)))
	weights("output_norm.weight", width)
	weights("output.weight", width, uint64(len(tokens)))
	for l := range layers {
		at := func(name string) string { return fmt.Sprintf("blk.%d.%s.weight", l, name) }
		weights(at("attn_norm"), width)
		for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_output"} {
			weights(at(name), width, width)
		}
		weights(at("ffn_norm"), width)
		weights(at("ffn_gate"), width, hidden)
		weights(at("ffn_up"), width, hidden)
		weights(at("ffn_down"), hidden, width)
	}
	return w.bytes()
}

// gguf writes a model file: what is known about the model, the tensors' names and
// shapes, and their values, each at a multiple of 32 bytes.
type gguf struct {
	known, shapes, values bytes.Buffer
	nKnown, nTensors      uint64
}

// The numbers of types in the file.
const (
	typeUint32, typeInt32, typeFloat32 = uint32(4), uint32(5), uint32(6)
	typeString, typeArray              = uint32(8), uint32(9)
)

func put(b *bytes.Buffer, values ...any) {
	for _, v := range values {
		if s, ok := v.(string); ok {
			put(b, uint64(len(s)))
			b.WriteString(s)
			continue
		}
		if err := binary.Write(b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
}

func (w *gguf) set(key string, value any) {
	w.nKnown++
	put(&w.known, key)
	switch v := value.(type) {
	case string:
		put(&w.known, typeString, v)
	case uint32:
		put(&w.known, typeUint32, v)
	case float32:
		put(&w.known, typeFloat32, v)
	case []string:
		put(&w.known, typeArray, typeString, uint64(len(v)))
		for _, s := range v {
			put(&w.known, s)
		}
	case []float32:
		put(&w.known, typeArray, typeFloat32, uint64(len(v)), v)
	case []int32:
		put(&w.known, typeArray, typeInt32, uint64(len(v)), v)
	}
}

func (w *gguf) tensor(name string, dims []uint64, values []float32) {
	w.nTensors++
	const float32s = uint32(0)
	put(&w.shapes, name, uint32(len(dims)), dims, float32s, uint64(w.values.Len()))
	put(&w.values, values)
	align(&w.values)
}

func align(b *bytes.Buffer) { b.Write(make([]byte, -b.Len()&31)) }

func (w *gguf) bytes() []byte {
	var b bytes.Buffer
	b.WriteString("GGUF")
	put(&b, uint32(3), w.nTensors, w.nKnown)
	b.Write(w.known.Bytes())
	b.Write(w.shapes.Bytes())
	align(&b)
	b.Write(w.values.Bytes())
	return b.Bytes()
}
