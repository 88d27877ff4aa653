//go:build unix

package report_test

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/report"
	"github.com/twinward-dev/twinward/audit/report/internal/chromium"
)

// The sizes and colours in which pages are looked at.
var (
	widths  = []int{390, 820, 1440} // a phone, a tablet, a desk
	schemes = []string{"light", "dark"}
)

// pageFiles are the pages as files: of the golden week, of names that attack, and
// of long words and large numbers. Their names are URLs.
func pageFiles(t *testing.T) map[string]string {
	dir := t.TempDir()
	files := map[string]string{}
	save := func(name string, s *report.Summary) {
		var b bytes.Buffer
		require.NoError(t, s.HTML(&b))
		path := filepath.Join(dir, name+".html")
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
		files[name] = "file://" + path
	}
	week := goldenWeek(t)
	s, err := report.Summarise(week.Query(ctx, audit.Filter{}), &report.Options{Title: "The week of the standup agent", Phrases: weekPhrases,
		Verified: &audit.VerifyReport{Origin: "audit.example/host7", Records: 103, Signed: 103, Anchored: 90, Anchors: 1, Checkpoints: 103, Caveats: []string{"what was written after the newest anchor can be cut off"}}})
	require.NoError(t, err)
	save("week", s)
	records, opts := everywhere(strings.Join(hostile, " ") + strings.Repeat("W", 300))
	opts.Verified.Records, opts.Failure = 1, nil
	s, err = report.Summarise(records, opts)
	require.NoError(t, err)
	save("hostile", s)
	return files
}

// look gathers what a page is like, for assertions in Go.
const look = `(() => {
	const rgb = c => (c.match(/[\d.]+/g) || []).map(Number);
	const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
	const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
	const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
	const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c } return rgb("255,255,255") };
	const name = e => e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 40);
	const out = {wide: [], faint: [], levels: [], unnamed: [], dead: [], heads: 0, lang: document.documentElement.lang, title: document.title,
		scroll: document.documentElement.scrollWidth, width: innerWidth, mains: document.querySelectorAll("main").length, twice: []};
	for (const e of document.querySelectorAll("body *")) {
		if (!e.getClientRects().length || e.closest("svg")) continue;
		const r = e.getBoundingClientRect(), boxed = e.closest(".scroll") && e !== e.closest(".scroll");
		if (!boxed && (r.right > innerWidth + 1 || r.left < -1)) out.wide.push(name(e));
		if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
		const c = contrast(light(rgb(getComputedStyle(e).color)), light(ground(e)));
		if (c < 4.5) out.faint.push(c.toFixed(2) + " " + name(e));
	}
	for (const h of document.querySelectorAll("h1,h2,h3,h4,h5,h6")) out.levels.push(+h.tagName[1]);
	for (const e of document.querySelectorAll("input,select,textarea,button")) if (!(e.labels && e.labels.length) && !e.getAttribute("aria-label")) out.unnamed.push(name(e));
	for (const t of document.querySelectorAll("table")) if (!t.caption || !t.caption.textContent.trim()) out.unnamed.push(name(t));
	for (const t of document.querySelectorAll("th")) if (!t.scope) out.unnamed.push(name(t));
	for (const t of document.querySelectorAll(".scroll")) if (t.scrollWidth > t.clientWidth && t.tabIndex < 0) out.unnamed.push("scrolls and has no focus: " + name(t));
	for (const a of document.querySelectorAll("a")) { const id = a.getAttribute("href"); if (id.startsWith("#") && !document.getElementById(id.slice(1))) out.dead.push(id) }
	const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
	out.twice = ids.filter((v, i) => ids.indexOf(v) !== i);
	return out;
})()`

type looks struct {
	Wide, Faint, Unnamed, Dead, Twice []string
	Levels                            []int
	Lang, Title                       string
	Scroll, Width, Mains              int
}

// wellFormed asserts what holds for every page in every size.
func wellFormed(t *testing.T, p *chromium.Page, what string, width int) {
	t.Helper()
	var l looks
	p.Eval(look, &l)
	assert.Equal(t, width, l.Width, what)
	assert.LessOrEqual(t, l.Scroll, width, "%s scrolls sideways", what)
	assert.Empty(t, l.Wide, "%s: wider than the window", what)
	assert.Empty(t, l.Faint, "%s: contrast below 4.5", what)
	assert.Empty(t, l.Unnamed, "%s: no label, caption or scope", what)
	assert.Empty(t, l.Dead, "%s: links that lead nowhere", what)
	assert.Empty(t, l.Twice, "%s: ids given twice", what)
	assert.Equal(t, "en", l.Lang, what)
	assert.NotEmpty(t, l.Title, what)
	assert.Equal(t, 1, l.Mains, what)
	if assert.NotEmpty(t, l.Levels, what) {
		assert.Equal(t, 1, l.Levels[0], what)
		for i, level := range l.Levels[1:] {
			assert.Greater(t, level, 1, "%s: a second headline", what)
			assert.LessOrEqual(t, level, l.Levels[i]+1, "%s: a level of headings is left out", what)
		}
	}
	assert.Empty(t, p.Trouble(), what)
}

// picture asserts that a screenshot is of this width, in these colours, and has
// something on it. It is kept in the folder TWINWARD_SCREENSHOTS, if there is one.
func picture(t *testing.T, shot []byte, name string, width int, scheme string) {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(shot))
	require.NoError(t, err, name)
	assert.Equal(t, width, img.Bounds().Dx(), name)
	assert.Greater(t, img.Bounds().Dy(), 500, name)
	corner, _, _, _ := img.At(1, 1).RGBA()
	assert.Equal(t, scheme == "dark", corner < 0x8000, "%s is in the wrong colours", name)
	assert.Greater(t, inked(img), 0.005, "%s is blank", name)
	dir := os.Getenv("TWINWARD_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), shot, 0o600))
}

// inked is how much of an image has not the colour of its corner.
func inked(img image.Image) float64 {
	r := img.Bounds()
	ground, n, all := img.At(1, 1), 0, 0
	for y := r.Min.Y; y < r.Max.Y; y += 3 {
		for x := r.Min.X; x < r.Max.X; x += 3 {
			all++
			if img.At(x, y) != ground {
				n++
			}
		}
	}
	return float64(n) / float64(all)
}

// The page in a real browser: in each size and colour it is quiet, whole and
// readable, whatever names are on record, and asks for nothing.
func TestPageInChromium(t *testing.T) {
	browser := chromium.Start(t)
	files := pageFiles(t)
	for name, url := range files {
		for _, width := range widths {
			for _, scheme := range schemes {
				what := fmt.Sprintf("%s-%d-%s", name, width, scheme)
				p := browser.Page(width, 900, scheme)
				p.Open(url)
				wellFormed(t, p, what, width)
				picture(t, p.Screenshot(), what, width, scheme)
				p.Eval(`document.querySelectorAll("details").forEach(d => d.open = true)`, nil)
				wellFormed(t, p, what+" unfolded", width)
				assert.Equal(t, []string{url}, p.Requests(), what)
				p.Close()
			}
		}
	}
	t.Run("printed", func(t *testing.T) {
		p := browser.Page(820, 900, "dark")
		p.Open(files["week"])
		pdf := p.PDF()
		assert.True(t, bytes.HasPrefix(pdf, []byte("%PDF-")))
		p.Media("print", "dark")
		var shown struct{ Find, Ground string }
		p.Eval(`({find: getComputedStyle(document.getElementById("find")).display, ground: getComputedStyle(document.body).backgroundColor})`, &shown)
		assert.Equal(t, "none", shown.Find, "what cannot be used on paper is not on it")
		assert.Equal(t, "rgb(255, 255, 255)", shown.Ground, "paper is white")
	})
}

// visibleRows are the texts of the rows that are shown.
const visibleRows = `[...document.querySelectorAll("[data-row]")].filter(r => r.getClientRects().length).map(r => r.textContent)`

// What a reader does with the page: search, choose, follow a link to a record.
func TestPageIsUsed(t *testing.T) {
	browser := chromium.Start(t)
	p := browser.Page(1440, 900, "light")
	p.Open(pageFiles(t)["week"])

	var all, rows []string
	p.Eval(visibleRows, &all)
	require.Greater(t, len(all), 30)
	said := func() (s string) {
		p.Eval(`document.querySelector("#find output").textContent`, &s)
		return s
	}
	empty := func(field string) {
		p.Eval(`document.querySelector("`+field+`").focus(); document.querySelector("`+field+`").select()`, nil)
		p.Call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Delete", "windowsVirtualKeyCode": 46}, nil)
	}

	p.Click("#find input")
	p.Type("SLACK post")
	p.Eval(visibleRows, &rows)
	var want []string
	for _, text := range all {
		if low := strings.ToLower(text); strings.Contains(low, "slack") && strings.Contains(low, "post") {
			want = append(want, text)
		}
	}
	require.NotEmpty(t, want)
	assert.Equal(t, want, rows)
	assert.Equal(t, fmt.Sprintf("%d of %d rows", len(want), len(all)), said())

	p.Type(" no such thing")
	p.Eval(visibleRows, &rows)
	assert.Empty(t, rows)
	assert.Equal(t, fmt.Sprintf("0 of %d rows", len(all)), said())
	empty("#find input")
	p.Eval(visibleRows, &rows)
	assert.Equal(t, all, rows)
	assert.Empty(t, said())

	// By keyboard: from the search on to the agent, and to the outcome.
	var fields []string
	p.Eval(`[...document.querySelectorAll("#find label")].map(l => l.firstChild.data)`, &fields)
	assert.Equal(t, []string{"Search", "Agent", "Outcome"}, fields)
	p.Eval(`(() => { const s = document.querySelectorAll("#find select")[1]; s.value = "=denied"; s.dispatchEvent(new Event("input", {bubbles: true})) })()`, nil)
	var other int
	p.Eval(`[...document.querySelectorAll("[data-how]")].filter(r => r.getClientRects().length && r.dataset.how !== "denied").length`, &other)
	assert.Zero(t, other)
	p.Eval(visibleRows, &rows)
	var denied int
	for _, text := range rows {
		if strings.Contains(text, "only-listed-channels") {
			denied++
		}
	}
	assert.GreaterOrEqual(t, denied, 3, "the sentence, the cause and the record")

	// A link leads to its record also when the filter hides it.
	var target string
	p.Eval(`(() => { const a = document.querySelector('li:not([hidden]) a[href^="#"]'); a.id = "click-me"; return a.hash.slice(1) })()`, &target)
	p.Click("#find input")
	p.Type("no such thing")
	p.Eval(`document.querySelector("#click-me").closest("li").hidden = false`, nil)
	p.Click("#click-me")
	p.Until(`document.getElementById("` + target + `").open`)
	var rec struct {
		Seen bool
		Text string
	}
	p.Eval(`(() => { const d = document.getElementById("`+target+`"), r = d.getBoundingClientRect(); return {seen: r.height > 0 && r.top >= 0 && r.bottom <= innerHeight, text: d.querySelector("pre").textContent} })()`, &rec)
	assert.True(t, rec.Seen)
	assert.Contains(t, rec.Text, `"seq":`+strings.TrimPrefix(target, "r0-"))
	assert.Empty(t, p.Trouble())
	assert.Len(t, p.Requests(), 1)
}

// Without scripts, and without the policy's leave for any, all rows are there.
func TestPageWithoutScripts(t *testing.T) {
	browser := chromium.Start(t)
	url := pageFiles(t)["week"]
	with := browser.Page(820, 900, "light")
	with.Open(url)
	var want, got []string
	with.Eval(visibleRows, &want)
	p := browser.Page(820, 900, "light")
	p.Call("Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)
	p.Open(url)
	p.Eval(visibleRows, &got)
	assert.Equal(t, want, got)
}

// An intruder's script does not run, even if it got onto the page: the page's
// policy names the one script that may. This is what the quiet of the other tests
// rests on.
func TestPolicyStopsWhatIsNotThePages(t *testing.T) {
	browser := chromium.Start(t)
	url := pageFiles(t)["week"]
	path := strings.TrimPrefix(url, "file://")
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, intruder := range map[string]string{
		"script": `<script>document.title = "stolen"</script>`,
		"event":  `<img src="x" onerror="document.title = 'stolen'">`,
		"style":  `<style>body { display: none }</style>`,
		"form":   `<form action="http://127.0.0.1:9/"><input name="a"></form><script>document.forms[0].submit()</script>`,
	} {
		require.NoError(t, os.WriteFile(path, bytes.Replace(page, []byte("<main>"), []byte("<main>"+intruder), 1), 0o600))
		p := browser.Page(820, 900, "light")
		p.Open(url)
		p.Until(`document.querySelector("#find")`)
		var title, display string
		p.Eval("document.title", &title)
		p.Eval("getComputedStyle(document.body).display", &display)
		assert.Equal(t, "The week of the standup agent", title, name)
		assert.Equal(t, "block", display, name)
		for _, asked := range p.Requests() {
			assert.NotContains(t, asked, "http://", name)
		}
		assert.Contains(t, p.Trouble(), "Content Security Policy", name)
		p.Close()
	}
}

// The live view shows what is being written, as it is written.
func TestLiveViewInChromium(t *testing.T) {
	browser := chromium.Start(t)
	h := newHost(t, "live", monday)
	url := serve(t, h.Log, nil) + "/audit/"
	tool := func(action string) audit.Intent {
		return audit.Intent{Door: audit.DoorTool, Action: action, Resource: fmt.Sprintf("Tool::%q", action), Actor: audit.Actor{Agent: "standup"}, Decision: allowed("readers")}
	}
	h.act(tool("github__list_prs"), audit.Outcome{Status: audit.StatusOK})
	d := audit.Refusal("d", audit.GuardUnlistedHost)
	h.event(audit.Event{Kind: audit.KindDenial, Door: audit.DoorCompute, Action: "connect", Resource: `Host::"<img src=x onerror=alert(1)>"`, Actor: audit.Actor{Agent: strings.Join(hostile, " ")}, Decision: &d})

	for _, width := range widths {
		for _, scheme := range schemes {
			p := browser.Page(width, 900, scheme)
			p.Open(url)
			p.Until(`document.querySelectorAll("#records tr").length >= 2`)
			wellFormed(t, p, "live", width)
			picture(t, p.Screenshot(), fmt.Sprintf("live-%d-%s", width, scheme), width, scheme)
			p.Close()
		}
	}

	p := browser.Page(1440, 900, "light")
	p.Open(url)
	p.Until(`document.querySelectorAll("#records tr").length === 2`)
	c, err := h.Begin(ctx, tool("jira__get_issue"))
	require.NoError(t, err)
	p.Until(`document.querySelectorAll("#records tr").length === 3 && document.querySelector("#records tr").cells[3].textContent === "allowed"`)
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusFailed, ErrorCode: "timeout"}))
	p.Until(`document.querySelector("#records tr").cells[3].textContent === "failed, timeout"`)
	p.Click("#find input")
	p.Type("jira")
	var rows int
	p.Eval(`[...document.querySelectorAll("#records tr")].filter(r => r.getClientRects().length).length`, &rows)
	assert.Equal(t, 1, rows)
	h.act(tool("github__list_prs"), audit.Outcome{Status: audit.StatusOK})
	p.Until(`document.querySelectorAll("#records tr").length === 4`)
	p.Eval(`[...document.querySelectorAll("#records tr")].filter(r => r.getClientRects().length).length`, &rows)
	assert.Equal(t, 1, rows, "what comes while a search is on is searched, too")
	for _, asked := range p.Requests() {
		assert.True(t, asked == url || asked == url+"events", asked)
	}

	p.Click(`a[href="report"]`)
	p.Until(`document.querySelector(".lead")`)
	var lead string
	p.Eval(`document.querySelector(".lead").textContent`, &lead)
	assert.Equal(t, "2 done, 1 blocked, 1 failed", lead)
	assert.Empty(t, p.Trouble())
	require.NoError(t, h.Close())
}

// A viewer whose connection is cut goes on where it was.
func TestLiveViewComesBack(t *testing.T) {
	browser := chromium.Start(t)
	h := newHost(t, "live", monday)
	srv := httptest.NewServer(report.Handler(h.Log, nil))
	defer srv.Close()
	in := audit.Intent{Door: audit.DoorTool, Action: "a__b", Actor: audit.Actor{Agent: "x"}, Decision: allowed("p")}
	h.act(in, audit.Outcome{Status: audit.StatusOK})
	p := browser.Page(820, 900, "light")
	p.Open(srv.URL + "/")
	p.Until(`document.querySelectorAll("#records tr").length === 1`)
	srv.CloseClientConnections()
	h.act(in, audit.Outcome{Status: audit.StatusOK})
	p.Until(`document.querySelectorAll("#records tr").length === 2`)
	var text string
	p.Eval(`[...document.querySelectorAll("#records tr")].map(r => r.querySelectorAll("summary").length).join()`, &text)
	assert.Equal(t, "2,2", text, "each record once")
	p.Close()
}
