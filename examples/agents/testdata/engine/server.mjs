// A model server for a test: node server.mjs NODE_MODULES MODEL.gguf
//
// It serves chat completions of a real engine, llama.cpp, at a free port of
// loopback, which it prints. GET /counts says what the engine itself has counted.
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [modules, file] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(`${modules}/node-llama-cpp/dist/index.js`));
const llama = await getLlama({ gpu: false, build: "never", maxThreads: 1, logLevel: "error" });
const model = await llama.loadModel({ modelPath: file, gpuLayers: 0 });
const context = await model.createContext({ contextSize: 512, sequences: 1, threads: 1 });
const sequence = context.getSequence();

const counts = () => ({ input: sequence.tokenMeter.usedInputTokens, output: sequence.tokenMeter.usedOutputTokens });

async function* generate(request) {
	await sequence.clearHistory();
	const prompt = model.tokenize(request.messages.map((m) => m.content).join("\n"));
	let left = request.max_tokens ?? 16;
	for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
		yield model.detokenize([token]);
		if (--left === 0) break;
	}
}

let turn = Promise.resolve(); // one at a time: there is one sequence
async function complete(request, res) {
	const before = counts();
	const head = { id: "chatcmpl-engine", created: 0, model: request.model };
	const usage = () => {
		const now = counts();
		const prompt_tokens = now.input - before.input, completion_tokens = now.output - before.output;
		return { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
	};
	if (!request.stream) {
		let content = "";
		for await (const text of generate(request)) content += text;
		res.setHeader("content-type", "application/json");
		const choices = [{ index: 0, message: { role: "assistant", content }, finish_reason: "length" }];
		res.end(JSON.stringify({ ...head, object: "chat.completion", choices, usage: usage() }));
		return;
	}
	res.setHeader("content-type", "text/event-stream");
	const send = (choices, more) =>
		res.write(`data: ${JSON.stringify({ ...head, object: "chat.completion.chunk", choices, ...more })}\n\n`);
	for await (const content of generate(request)) {
		if (res.destroyed) return;
		send([{ index: 0, delta: { role: "assistant", content }, finish_reason: null }]);
	}
	send([{ index: 0, delta: {}, finish_reason: "length" }]);
	if (request.stream_options?.include_usage) send([], { usage: usage() });
	res.end("data: [DONE]\n\n");
}

const server = createServer(async (req, res) => {
	if (req.url === "/counts") {
		res.end(JSON.stringify(counts()));
		return;
	}
	if (req.headers.authorization !== `Bearer ${process.env.ENGINE_KEY}`) {
		res.writeHead(401).end();
		return;
	}
	let body = "";
	for await (const piece of req) body += piece;
	turn = turn.then(() => complete(JSON.parse(body), res)).catch((err) => {
		console.error(err);
		res.destroy();
	});
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume(); // when the test is gone
