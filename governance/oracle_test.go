package governance

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// Cedar's own engine, in Rust, gives the same decisions as ours, for the same
// reasons, and the same verdicts about policies: on random catalogues, policies
// and calls. It also checks that what arguments are converted to fits the schema
// that policies are checked against.
//
// It needs node and npm, and so runs in full mode only: 10,000 calls in a soak,
// a tenth otherwise.
func TestCedarOracle(t *testing.T) {
	if os.Getenv("TWINWARD_FULL") != "1" && os.Getenv("TWINWARD_SOAK") != "1" {
		t.Skip("set TWINWARD_FULL=1 to compare with Cedar's own engine; it needs node and npm")
	}
	o := startOracle(t)
	r := seeded(t)
	const callsPerWorld = 25
	calls, decisions, allowed, failed, verdicts, wrong := 0, 0, 0, 0, 0, 0
	stricter := map[string]int{}
	for calls < rounds(10_000) {
		w := newOracleWorld(t, r)
		invalid := o.world(w)
		for id, p := range w.checked {
			verdicts++
			theirs := invalid[id]
			if len(theirs) > 0 {
				wrong++
			}
			ours := w.findings[id]
			if len(ours) == 0 {
				require.Empty(t, theirs, "we accept what Cedar does not:\n%s", p)
				continue
			}
			if len(theirs) == 0 {
				why, known := stricterCase(ours)
				assert.True(t, known, "we refuse what Cedar accepts: %v\n%s", ours, p)
				stricter[why]++
			}
		}
		for range callsPerWorld {
			calls++
			req := w.request(r)
			target, err := w.snap.resolve(&req)
			require.NoError(t, err)
			context, err := req.context(&target, req.Time, nil)
			require.NoError(t, err, "%s", req.Args)
			if a := req.Approval; a != nil {
				context["approval"] = a.value(&req)
			}
			_, err = w.snap.look(&req, &target, context, req.Time, nil)
			require.NoError(t, err)
			part, err := req.context(&target, req.Time, w.snap.readsAbout(&target))
			require.NoError(t, err)
			_, err = w.snap.look(&req, &target, part, req.Time, w.snap.readsAbout(&target))
			require.NoError(t, err)
			if v, ok := context["approval"]; ok {
				part["approval"] = v
			}
			for _, who := range req.askers(nil) {
				if who.other != "" {
					context[who.other], part[who.other] = who.half, who.half
				}
				ctx, read := types.NewRecord(context), types.NewRecord(part)
				delete(context, who.other)
				delete(part, who.other)
				ours := w.snap.evaluate(w.snap.law, who.uid, &target, read, who.claims)
				theirs := o.ask(w.snap, who, &target, ctx)
				decisions++

				broken := false
				var errs []string
				for _, m := range ours.messages {
					id, _, _ := strings.Cut(m, " at ")
					errs = append(errs, id)
					broken = broken || w.snap.policies[types.PolicyID(id)].forbid
				}
				reasons := []string{}
				for _, p := range ours.reasons {
					reasons = append(reasons, p.id)
				}
				slices.Sort(errs)
				about := fmt.Sprintf("%s %s %s\n%s", who.uid, req.Name, req.Args, lawText(w.snap))
				require.ElementsMatch(t, theirs.Reason, reasons, about)
				require.ElementsMatch(t, theirs.Errors, errs, about)
				require.Equal(t, theirs.Decision == "allow" && !broken, ours.allowed, about)
				if theirs.Decision == "allow" {
					allowed++
				}
				if len(errs) > 0 {
					failed++
				}
			}
		}
	}
	t.Logf("%d calls, %d decisions (%d allowed, %d with a policy that failed), %d policies of which Cedar refuses %d", calls, decisions, allowed, failed, verdicts, wrong)
	for why, n := range stricter {
		t.Logf("stricter than Cedar: %s (%d)", why, n)
	}
	require.NotZero(t, allowed)
	require.NotZero(t, failed)
	require.NotZero(t, wrong)
	require.Less(t, allowed, decisions)
}

// stricterCases are what our validator refuses and Cedar's accepts. Each is on
// the safe side: the policy has to be written in another way.
var stricterCases = []struct{ why, message string }{
	{"a scope that nothing matches", `^unable to find an applicable action`},
}

func stricterCase(messages []string) (why string, known bool) {
	for _, m := range messages {
		i := slices.IndexFunc(stricterCases, func(c struct{ why, message string }) bool {
			return regexp.MustCompile(c.message).MatchString(m)
		})
		if i < 0 {
			return "", false
		}
		why = stricterCases[i].why
	}
	return why, true
}

// An oracleWorld is a random bundle with what Cedar has to be told about it.
type oracleWorld struct {
	snap     *Snapshot
	tools    []oracleTool
	checked  map[string]string   // all policies, valid or not
	findings map[string][]string // what our validator says about them
}

type oracleTool struct {
	name  string
	props []oracleProp
}

type oracleProp struct {
	name, kind string
	required   bool
}

// oracleKinds are the kinds of argument: a JSON schema, values, and conditions
// with % for the argument.
var oracleKinds = map[string]struct {
	schema     string
	values     []string
	conditions []string
}{
	"string": {`{"type":"string"}`, []string{`"v"`, `"w"`, `"zed"`, `""`, `"Ünï*\\\n"`},
		[]string{`% == "v"`, `% like "*e*"`, `["v", "w"].contains(%)`, `% != "w"`, `% like "Ünï\**"`, `% < 5`, `%.x == 1`}},
	"enum": {`{"type":"string","enum":["open","closed"]}`, []string{`"open"`, `"closed"`}, []string{`% == "open"`, `% == 1`}},
	"integer": {`{"type":"integer"}`, []string{"0", "5", "6", "-7", "4503599627370496", "42.0"},
		[]string{`% > 5`, `% + 1 <= 6`, `% * 9007199254740993 > 0`, `-% < 0`, `[5, 6].contains(%)`, `% == "5"`, `% > decimal("1.0")`}},
	"number": {`{"type":"number"}`, []string{"1.5", "0.0001", "-2", "10"},
		[]string{`%.lessThan(decimal("2.0"))`, `% == decimal("1.5")`, `%.greaterThanOrEqual(decimal("0.0001"))`, `% > 1`, `%.lessThan(decimal("1.23456"))`}},
	"boolean": {`{"type":"boolean"}`, []string{"true", "false"}, []string{`%`, `!%`, `% == true`, `% && 1`}},
	"time": {`{"type":"string","format":"date-time"}`, []string{`"2025-01-02T03:04:05Z"`, `"2033-01-02T03:04:05.5+02:00"`},
		[]string{`% < context.now`, `%.toDate() == datetime("2025-01-02")`, `context.now.durationSince(%) > duration("1d")`, `%.offset(duration("1h")).toTime() < duration("12h")`, `% < 5`}},
	"ip": {`{"type":"string","format":"ipv4"}`, []string{`"10.1.2.3"`, `"127.0.0.1"`, `"192.168.0.1"`},
		[]string{`%.isInRange(ip("10.0.0.0/8"))`, `%.isLoopback()`, `% == ip("192.168.0.1")`, `!%.isIpv6()`, `% == "10.1.2.3"`}},
	"strings": {`{"type":"array","items":{"type":"string"}}`, []string{`[]`, `["v"]`, `["v","w","v"]`, `["z"]`},
		[]string{`%.contains("v")`, `["v", "w"].containsAll(%)`, `%.containsAny(["w", "x"])`, `%.isEmpty()`, `% == ["v"]`, `%.contains(1)`, `% == []`}},
	"integers": {`{"type":"array","items":{"type":"integer"}}`, []string{`[]`, `[1]`, `[3,2,1]`},
		[]string{`%.contains(1)`, `%.containsAll([1, 2])`, `% == [1, 2, 3]`, `%.contains("1")`}},
	"object": {`{"type":"object","properties":{"a":{"type":"string"},"k":{"type":"integer"}},"required":["a"]}`, []string{`{"a":"v"}`, `{"a":"w","k":3}`, `{"a":"","k":-3}`},
		[]string{`%.a == "v"`, `% has k && %.k > 1`, `%.a like "*" && !(% has k)`, `%.k > 1`, `% == {"a": "v"}`, `%.b == 1`, `% has b`}},
	"union": {`{"anyOf":[{"type":"string"},{"type":"integer"}]}`, []string{`"v"`, `1`}, []string{`% == "\"v\""`, `% like "*1*"`}},
}

// oracleConditions are about everything else; some are wrong.
var oracleConditions = []string{
	`principal.hasTag("k") && principal.getTag("k") == "v"`,
	`principal.getTag("k") == "v"`,
	`context has session && context.session == "s"`,
	`context.session == "s"`,
	`context has sesion`,
	`context.now < datetime("2030-01-01")`,
	`principal in Team::"red"`,
	`!(principal in Profile::"p")`,
	`principal in Team::"all" || context has session`,
	`context has session && principal is User`,
	`if principal is Agent then context has session else true`,
	`if context has session then 1 else "x"`,
	`9223372036854775807 + 1 > 0`,
	`context has approval && context.approval.by == User::"lena"`,
	`context has approval && context.approval.groups.contains("lead") && context.approval.by in Team::"red"`,
	`context has approval.by`,
	`context.approval.groups.contains("lead")`,
	`context has user && context.user in Team::"red"`,
	`context has agent && context.agent has trust && context.agent.trust > 5`,
	`principal has trust && principal.trust > 5`,
	`principal has kind`,
	`resource.class == "read" || resource.destructive`,
	`resource.class == 5`,
	`resource in Server::"x"`,
	`context.extra.isEmpty()`,
	`context.nulls.contains("a")`,
	`context.args.absent == 1`,
	`context has args`,
	`["a", 1].contains("a")`,
	`[].isEmpty()`,
	`{"a": 1} == {"a": "b"}`,
	`principal == resource`,
	`principal == User::"u0"`,
	`1 + 1 == 2`,
	`false && context.args.absent == 1`,
	`true || "x" > 1`,
}

func newOracleWorld(t *testing.T, r *rand.Rand) *oracleWorld {
	w := &oracleWorld{checked: map[string]string{}, findings: map[string][]string{}}
	var b Bundle
	kinds := slices.Sorted(maps.Keys(oracleKinds))
	for _, name := range []string{"x", "y"} {
		s := Server{Name: name}
		for i := range 3 {
			tool := oracleTool{name: fmt.Sprintf("t%d", i)}
			var props, required []string
			for _, k := range r.Perm(len(kinds))[:2+r.IntN(4)] {
				p := oracleProp{name: pick(r, "a", "b", "if", "like", "c d") + fmt.Sprint(k), kind: kinds[k], required: r.IntN(2) == 0}
				if strings.Contains(p.name, " ") {
					p.name = "q" + fmt.Sprint(k)
				}
				tool.props = append(tool.props, p)
				props = append(props, fmt.Sprintf("%q:%s", p.name, oracleKinds[p.kind].schema))
				if p.required {
					required = append(required, fmt.Sprintf("%q", p.name))
				}
			}
			s.Tools = append(s.Tools, Tool{Class: classes[i], ToolDefinition: ToolDefinition{
				Name:        tool.name,
				InputSchema: json.RawMessage(fmt.Sprintf(`{"type":"object","properties":{%s},"required":[%s]}`, strings.Join(props, ","), strings.Join(required, ","))),
			}})
			tool.name = toolKey(name, tool.name)
			w.tools = append(w.tools, tool)
		}
		b.Catalog = append(b.Catalog, s)
	}
	b.Profiles = []Profile{
		{ID: "p", Agents: []string{"a0"}, Servers: map[string]Grant{"x": {Tools: []string{"*"}}, "y": {Tools: []string{"t0"}}}, Hosts: []string{"*.example.com"}},
		{ID: "q", Agents: []string{"a1"}},
	}
	b.Entities = []types.Entity{
		{UID: uid(typeAgent, "a2"), Parents: types.NewEntityUIDSet(uid(typeTeam, "red")), Attributes: types.NewRecord(types.RecordMap{"trust": types.Long(7), "kind": types.String("bot")})},
		{UID: uid(typeAgent, "a1"), Attributes: types.NewRecord(types.RecordMap{"trust": types.Long(3)}), Tags: types.NewRecord(types.RecordMap{"k": types.String("v")})},
		{UID: uid(typeUser, "u0"), Parents: types.NewEntityUIDSet(uid(typeTeam, "red"))},
		{UID: uid(typeUser, "lena"), Parents: types.NewEntityUIDSet(uid(typeTeam, "red"))},
		{UID: uid(typeTeam, "red"), Parents: types.NewEntityUIDSet(uid(typeTeam, "all"))},
		{UID: uid(typeTeam, "all")},
	}
	empty, rep, err := Compile(t.Context(), b, nil)
	require.NoError(t, err, "%v", rep)
	validator, err := cedarx.NewValidator("schema", empty.schema)
	require.NoError(t, err)
	var good strings.Builder
	for i := range 30 {
		id := fmt.Sprintf("r%02d", i)
		text := fmt.Sprintf("@id(%q)\n%s", id, w.policy(r))
		w.checked[id] = text
		var p cedar.Policy
		require.NoError(t, p.UnmarshalCedar([]byte(text)), text)
		for _, e := range validator.Policy(&p) {
			w.findings[id] = append(w.findings[id], e.Error())
		}
		if len(w.findings[id]) == 0 {
			good.WriteString(text + "\n")
		}
	}
	b.Policies = []Source{{Name: "random.cedar", Text: good.String()}}
	w.snap, rep, err = Compile(t.Context(), b, nil)
	require.NoError(t, err, "%v", rep)
	return w
}

func (w *oracleWorld) policy(r *rand.Rand) string {
	principal := pick(r, "principal", "principal", "principal", "principal is Agent", "principal is User", `principal == Agent::"a0"`,
		`principal in Profile::"p"`, `principal in Team::"all"`, `principal is User in Team::"red"`, `principal == User::"u0"`)
	if r.IntN(16) == 0 {
		principal = `principal in Server::"x"`
	}
	tool := pick(r, w.tools...)
	action := pick(r, "action", `action in Action::"call_tool"`, `action in [Action::"x:read", Action::"write"]`, `action == Action::"connect"`, `action in Action::"destructive"`)
	exact := r.IntN(3) > 0
	if exact {
		action = fmt.Sprintf("action == Action::%q", tool.name)
	}
	resource := pick(r, "resource", "resource", "resource", "resource", "resource", "resource is Tool", `resource in Server::"x"`)
	if r.IntN(8) == 0 {
		resource = pick(r, `resource == Host::"a.example.com"`, `resource is Tool in Server::"y"`, `resource is Agent`)
	}
	var conditions []string
	for range r.IntN(4) {
		c := pick(r, oracleConditions...)
		if exact && r.IntN(3) > 0 {
			p := pick(r, tool.props...)
			kind := oracleKinds[p.kind]
			path := "context.args." + p.name
			if p.name[0] == 'i' || p.name[0] == 'l' { // reserved words
				path = fmt.Sprintf("context.args[%q]", p.name)
			}
			c = strings.ReplaceAll(pick(r, kind.conditions...), "%", path)
			if guard := r.IntN(4); guard == 0 || guard < 3 && !p.required {
				c = fmt.Sprintf("context.args has %q && %s", p.name, c)
			}
		}
		if r.IntN(8) == 0 {
			c = fmt.Sprintf("(%s) || (%s)", c, pick(r, oracleConditions...))
		}
		conditions = append(conditions, pick(r, "when", "when", "unless")+" { "+c+" }")
	}
	return fmt.Sprintf("%s (%s, %s, %s)\n%s;", pick(r, "permit", "permit", "forbid"), principal, action, resource, strings.Join(conditions, "\n"))
}

// request is a call with arguments that fit the tool's schema.
func (w *oracleWorld) request(r *rand.Rand) Request {
	tool := pick(r, w.tools...)
	server, name, _ := strings.Cut(tool.name, "__")
	req := Request{
		Actor:  pick(r, append(slices.Clone(randomActors), audit.Actor{Agent: "a0", User: "lena"})...),
		Action: actionCallTool, Server: server, Name: name,
		Time: pick(r, time.Date(2026, 1, 1, 2, 3, 4, 0, time.UTC), time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)),
	}
	req.Actor.Session = pick(r, "", "s", "z")
	if r.IntN(2) == 0 {
		req.Claims = map[string]string{"k": pick(r, "v", "w"), "scope": "a b"}
	}
	if r.IntN(4) == 0 {
		req.Approval = &Approval{By: pick(r, "lena", "bob"), Groups: pick(r, nil, []string{"lead"}, []string{"staff", "lead"}), At: req.Time.Add(-time.Minute), Policy: w.snap.hash}
	}
	if r.IntN(12) == 0 {
		req.Action, req.Server, req.Name = "connect", "", pick(r, "a.example.com", "other.example")
		return req
	}
	var args []string
	for _, p := range tool.props {
		if p.required || r.IntN(2) == 0 {
			args = append(args, fmt.Sprintf("%q:%s", p.name, pick(r, oracleKinds[p.kind].values...)))
		}
	}
	if r.IntN(4) == 0 {
		args = append(args, `"zzz_unknown":1`)
	}
	req.Args = json.RawMessage("{" + strings.Join(args, ",") + "}")
	return req
}

// An oracle is Cedar's engine in a process of its own.
type oracle struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func startOracle(t *testing.T) *oracle {
	dir := oracleDir(t)
	script, err := filepath.Abs("testdata/oracle/oracle.js")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "node", script)
	cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(dir, "node_modules"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start(), "node is needed in full mode")
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &oracle{t, in, bufio.NewReaderSize(out, 1<<20)}
}

// oracleDir has the pinned package installed, once for each user and lock file.
// npm checks it against the hash in the lock file.
func oracleDir(t *testing.T) string {
	lock, err := os.ReadFile("testdata/oracle/package-lock.json")
	require.NoError(t, err)
	manifest, err := os.ReadFile("testdata/oracle/package.json")
	require.NoError(t, err)
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	cache = filepath.Join(cache, "twinward-test")
	require.NoError(t, os.MkdirAll(cache, 0o700))
	dir := filepath.Join(cache, "cedar-oracle-"+shortHash(fmt.Sprintf("%x", sha256.Sum256(lock))))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	fresh, err := os.MkdirTemp(cache, "cedar-oracle-*")
	require.NoError(t, err)
	defer os.RemoveAll(fresh)
	require.NoError(t, os.WriteFile(filepath.Join(fresh, "package.json"), manifest, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(fresh, "package-lock.json"), lock, 0o600))
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = fresh
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "npm is needed in full mode: %s", text)
	if err := os.Rename(fresh, dir); err != nil {
		require.DirExists(t, dir, "%v", err) // another test was faster
	}
	return dir
}

// call sends one question and reads the answer.
func (o *oracle) call(q map[string]any, answer any) {
	o.t.Helper()
	text, err := json.Marshal(q)
	require.NoError(o.t, err)
	_, err = o.in.Write(append(text, '\n'))
	require.NoError(o.t, err)
	line, err := o.out.ReadBytes('\n')
	require.NoError(o.t, err)
	var failure struct{ Error string }
	require.NoError(o.t, json.Unmarshal(line, &failure), "%s", line)
	require.Empty(o.t, failure.Error, "%.2000s", text)
	require.NoError(o.t, json.Unmarshal(line, answer))
}

func (o *oracle) world(w *oracleWorld) map[string][]string {
	policies := map[string]string{}
	for id, p := range w.snap.policies {
		policies[string(id)] = p.text
	}
	var entities []types.Entity
	for _, e := range sortedEntities(w.snap.entities) {
		if e.UID.Type != typeAction { // those are in the schema
			entities = append(entities, e)
		}
	}
	var answer struct{ Invalid map[string][]string }
	o.call(map[string]any{"op": "world", "schema": w.snap.schema, "policies": policies, "checked": w.checked, "entities": entities}, &answer)
	return answer.Invalid
}

type oracleAnswer struct {
	Decision       string
	Reason, Errors []string
}

func (o *oracle) ask(s *Snapshot, who asker, t *target, context types.Record) (answer oracleAnswer) {
	entities := []types.Entity{s.principal(who.uid, who.claims)}
	if t.tool == nil {
		entities = append(entities, t.dynamic)
	}
	o.call(map[string]any{"op": "ask", "principal": who.uid, "action": t.action, "resource": t.resource, "context": context, "entities": entities}, &answer)
	return answer
}
