package inference

import (
	"math"
	"strings"
)

// maxRead is the largest context window of the providers' models.
const maxRead = 1 << 21

// estInput is an upper bound of the tokens that t reads of the request.
func (c *call) estInput(t *target) int64 {
	most, said := lookup(c.routes.spend.MaxInput, t.backend.Name, t.model)
	if !said {
		most = maxRead
	}
	if c.env.boundless || said && c.env.runsTools() {
		return most
	}
	per := max(c.routes.spend.BytesPerToken, 1)
	n := addSaturating((int64(c.size-c.env.imageBytes)+per-1)/per, c.imageTokens(t))
	if said {
		n = min(n, most)
	}
	return n
}

// imageTokens is the most that the request's images come to for t.
func (c *call) imageTokens(t *target) int64 {
	each, said := lookup(c.routes.spend.ImageTokens, t.backend.Name, t.model)
	if !said {
		each = t.protocol.imageTokens()
	}
	return mulSaturating(c.env.images, each)
}

// imageTokens is the most tokens that one image becomes, as the providers document
// it: 4,784 of Claude's newest (patches of 28 pixels); 258 a tile of Gemini's, of
// which an image 20 times as long as it is wide has some 60; 48,169 of gpt-4o-mini,
// which counts more than it reads so that an image costs as much as of gpt-4o.
func (p Protocol) imageTokens() int64 {
	switch p {
	case Anthropic:
		return 5_000
	case Gemini:
		return 16_000
	}
	return 50_000
}

// runsTools reports whether the provider may read what is not in the request.
func (e *envelope) runsTools() bool {
	for _, name := range e.hosted {
		if name != hostedSave && name != hostedURL && !strings.HasPrefix(name, "field:") {
			return true
		}
	}
	return false
}

// readable is the size of the request for the meter, which estimates a token for
// four bytes.
func (c *call) readable() int {
	return int(min(addSaturating(int64(c.size-c.env.imageBytes), mulSaturating(c.imageTokens(c.target), 4)), math.MaxInt32))
}
