// Records the tools of an MCP server from npm, once it is installed:
//
//	npm install --ignore-scripts <package> && node record.mjs . <out.json> <package> [arguments of the server]
//
// It starts the server over stdio, asks for tools/list, and keeps names and
// input schemas without their prose. Servers want their tokens in the
// environment; any text will do. @modelcontextprotocol/server-gitlab needs
// zod@3.23.8 and zod-to-json-schema@3.23.5 beside it.
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
const [dir, out, name, ...args] = process.argv.slice(2);
const root = join(resolve(dir), "node_modules", name);
const pkg = JSON.parse(readFileSync(join(root, "package.json")));
const bin = typeof pkg.bin === "string" ? pkg.bin : Object.values(pkg.bin)[0];
const child = spawn(process.execPath, [join(root, bin), ...args], { stdio: ["pipe", "pipe", "inherit"], cwd: dir });
const send = (m) => child.stdin.write(JSON.stringify({ jsonrpc: "2.0", ...m }) + "\n");
const list = (cursor) => send({ id: 2, method: "tools/list", params: cursor ? { cursor } : {} });
const tools = [];
const maps = ["properties", "$defs", "definitions", "patternProperties", "dependentSchemas"];
function bare(s) { // a schema without prose
  if (Array.isArray(s)) return s.map(bare);
  if (s === null || typeof s !== "object") return s;
  const r = {};
  for (const k of Object.keys(s).sort()) {
    if (["description", "title", "examples", "default", "$comment", "markdownDescription"].includes(k)) continue;
    if (maps.includes(k)) r[k] = Object.fromEntries(Object.keys(s[k]).sort().map((p) => [p, bare(s[k][p])]));
    else if (k === "enum" || k === "const" || k === "required") r[k] = s[k];
    else r[k] = bare(s[k]);
  }
  return r;
}
setTimeout(() => { console.error("no answer from", name); child.kill(); process.exit(1); }, 20_000);
let buf = "";
child.stdout.on("data", (d) => {
  buf += d;
  for (let i; (i = buf.indexOf("\n")) >= 0; buf = buf.slice(i + 1)) {
    let m;
    try { m = JSON.parse(buf.slice(0, i)); } catch { continue; }
    if (m.id === 1) { send({ method: "notifications/initialized" }); list(); }
    if (m.id !== 2) continue;
    if (m.error) { console.error(name, m.error); process.exit(1); }
    tools.push(...m.result.tools);
    if (m.result.nextCursor) { list(m.result.nextCursor); continue; }
    const lines = tools.sort((a, b) => (a.name < b.name ? -1 : 1)).map((t) => JSON.stringify({ name: t.name, inputSchema: bare(t.inputSchema) }));
    writeFileSync(out, `{"source": ${JSON.stringify("npm:" + name + "@" + pkg.version)}, "license": ${JSON.stringify(pkg.license ?? "")}, "tools": [\n${lines.join(",\n")}\n]}\n`);
    console.error(name, pkg.version, pkg.license, tools.length);
    child.kill();
    process.exit(0);
  }
});
send({ id: 1, method: "initialize", params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "record", version: "1" } } });
