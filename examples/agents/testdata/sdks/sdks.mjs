// The SDKs that agents in JavaScript are made with, as they come from npm, for a
// test: node sdks.mjs NODE_MODULES. Prints what each saw, as one object of JSON.
import { createRequire } from "node:module";

const require = createRequire(`${process.argv[2]}/any.js`);
const { OpenAI } = require("openai");
const { Anthropic } = require("@anthropic-ai/sdk");
const { GoogleGenAI } = await import(`${process.argv[2]}/@google/genai/dist/node/index.mjs`);
const base = "https://inference.local";
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: "placeholder", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: base, apiKey: "placeholder", maxRetries: 0 });
const google = new GoogleGenAI({ apiKey: "placeholder", httpOptions: { baseUrl: base } });

const messages = [{ role: "user", content: "Hello" }];
const schema = { type: "object", properties: { city: { type: "string" } } };
const call = (name, args) => ({ name, args: typeof args === "string" ? JSON.parse(args) : args });

// failure says what an SDK makes of a refusal.
async function failure(ask) {
	try {
		await ask();
		return { type: "none" };
	} catch (err) {
		return { type: err.constructor.name, status: err.status, message: String(err.message) };
	}
}

// abandoned leaves a stream after its first event.
async function abandoned(start) {
	const controller = new AbortController();
	try {
		let events = 0;
		for await (const _ of await start(controller.signal)) {
			events++;
			controller.abort();
		}
		return { events };
	} catch (err) {
		return { type: err.constructor.name };
	}
}

const sdks = {
	async chat() {
		const tools = [{ type: "function", function: { name: "weather", parameters: schema } }];
		const ask = (model, more) => openai.chat.completions.create({ model, messages, tools, ...more });
		const whole = (await ask("house-model")).choices[0].message;
		const runner = openai.chat.completions.stream({ model: "house-model", messages, tools, stream_options: { include_usage: true } });
		const final = await runner.finalChatCompletion();
		return {
			text: whole.content, call: call(whole.tool_calls[0].function.name, whole.tool_calls[0].function.arguments),
			streamed: final.choices[0].message.content,
			streamedCall: call(final.choices[0].message.tool_calls[0].function.name, final.choices[0].message.tool_calls[0].function.arguments),
			usage: { input: final.usage.prompt_tokens, output: final.usage.completion_tokens },
			unknown: await failure(() => ask("no-such-model")),
			denied: await failure(() => ask("denied-model")),
			abandoned: await abandoned((signal) => openai.chat.completions.create({ model: "endless", messages, stream: true }, { signal })),
			models: (await openai.models.list()).data.map((m) => m.id),
		};
	},
	async responses() {
		const tools = [{ type: "function", name: "weather", parameters: schema, strict: false }];
		const ask = (model) => openai.responses.create({ model, input: "Hello", tools, store: false });
		const whole = await ask("house-model");
		const final = await openai.responses.stream({ model: "house-model", input: "Hello", tools, store: false }).finalResponse();
		const wanted = (r) => r.output.find((item) => item.type === "function_call");
		return {
			text: whole.output_text, call: call(wanted(whole).name, wanted(whole).arguments),
			streamed: final.output_text, streamedCall: call(wanted(final).name, wanted(final).arguments),
			usage: { input: final.usage.input_tokens, output: final.usage.output_tokens },
			unknown: await failure(() => ask("no-such-model")),
			denied: await failure(() => ask("denied-model")),
			abandoned: await abandoned((signal) => openai.responses.create({ model: "endless", input: "Hello", stream: true, store: false }, { signal })),
		};
	},
	async messages() {
		const tools = [{ name: "weather", input_schema: schema }];
		const ask = (model) => anthropic.messages.create({ model, max_tokens: 100, messages, tools });
		const whole = await ask("house-model");
		const final = await anthropic.messages.stream({ model: "house-model", max_tokens: 100, messages, tools }).finalMessage();
		const said = (m) => m.content.find((b) => b.type === "text").text;
		const wanted = (m) => m.content.find((b) => b.type === "tool_use");
		return {
			text: said(whole), call: call(wanted(whole).name, wanted(whole).input),
			streamed: said(final), streamedCall: call(wanted(final).name, wanted(final).input),
			usage: { input: final.usage.input_tokens, output: final.usage.output_tokens },
			unknown: await failure(() => ask("no-such-model")),
			denied: await failure(() => ask("denied-model")),
			abandoned: await abandoned((signal) => anthropic.messages.create({ model: "endless", max_tokens: 100, messages, stream: true }, { signal })),
			models: (await anthropic.models.list()).data.map((m) => m.id),
		};
	},
	async gemini() {
		const tools = [{ functionDeclarations: [{ name: "weather", parametersJsonSchema: schema }] }];
		const ask = (model) => google.models.generateContent({ model, contents: "Hello", config: { tools } });
		const whole = await ask("house-model");
		let streamed = "", wanted, usage;
		for await (const part of await google.models.generateContentStream({ model: "house-model", contents: "Hello", config: { tools } })) {
			for (const p of part.candidates?.[0]?.content?.parts ?? []) streamed += p.text ?? "";
			wanted = part.functionCalls?.[0] ?? wanted;
			usage = part.usageMetadata ?? usage;
		}
		return {
			text: whole.candidates[0].content.parts[0].text, call: call(whole.functionCalls[0].name, whole.functionCalls[0].args),
			streamed, streamedCall: call(wanted.name, wanted.args),
			usage: { input: usage.promptTokenCount, output: usage.candidatesTokenCount },
			unknown: await failure(() => ask("no-such-model")),
			denied: await failure(() => ask("denied-model")),
			abandoned: await abandoned((abortSignal) => google.models.generateContentStream({ model: "endless", contents: "Hello", config: { abortSignal } })),
		};
	},
};

const saw = {};
for (const [name, use] of Object.entries(sdks)) saw[name] = await use();
console.log(JSON.stringify(saw));
