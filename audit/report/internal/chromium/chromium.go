//go:build unix

// Package chromium opens pages in a real headless Chromium for a test: an
// ordinary child process, told what to do over two pipes in the DevTools
// protocol, that listens on no port.
package chromium

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait for the browser.
const patience = 2 * time.Minute

// programs are the names that Chromium goes by.
var programs = []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"}

// A Browser is a running Chromium.
type Browser struct {
	t  testing.TB
	in *os.File

	mu      sync.Mutex
	next    int
	waiting map[int]chan message
	pages   map[string]*Page
	ended   chan struct{} // closed when it says nothing more
}

// A message is one of the protocol, either way: https://chromedevtools.github.io/devtools-protocol
type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// Start runs a browser until the test ends. It skips the test unless
// TWINWARD_FULL is set; then a machine without Chromium fails it.
func Start(t testing.TB) *Browser {
	t.Helper()
	if os.Getenv("TWINWARD_FULL") == "" && os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test opens pages in Chromium: set TWINWARD_FULL=1")
	}
	program := ""
	for _, name := range programs {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Fatal("chromium: there is none in PATH: install Debian's chromium-headless-shell")
	}
	toIt, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, fromIt, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Its own sandbox needs privileges that a test has not everywhere. What it
	// opens is ours.
	cmd := exec.Command(program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
		"--user-data-dir="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.ExtraFiles = []*os.File{toIt, fromIt} // 3 and 4
	// Its folder and its caches are not in a home that the test's uid may not have.
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir(), "XDG_CACHE_HOME="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	_, _ = toIt.Close(), fromIt.Close()
	b := &Browser{t: t, in: in, waiting: map[int]chan message{}, pages: map[string]*Page{}, ended: make(chan struct{})}
	go b.read(out)
	t.Cleanup(func() {
		_ = in.Close() // it ends with its pipe
		exited := make(chan error, 1)
		go func() { exited <- cmd.Wait() }()
		select {
		case <-exited:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-exited
		}
		<-b.ended
		if t.Failed() {
			t.Logf("chromium said: %s", stderr.Bytes())
		}
	})
	return b
}

// read takes what the browser says: messages that end with a zero byte.
func (b *Browser) read(out io.ReadCloser) {
	defer close(b.ended)
	defer out.Close()
	for r := bufio.NewReader(out); ; {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			message
			Params json.RawMessage `json:"params"`
		}
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			return
		}
		b.mu.Lock()
		answer, page := b.waiting[m.ID], b.pages[m.Session]
		delete(b.waiting, m.ID)
		b.mu.Unlock()
		if m.ID != 0 && answer != nil {
			answer <- m.message
		} else if page != nil {
			page.heard(m.Method, m.Params)
		}
	}
}

// call asks the browser and waits for its answer. result may be nil.
func (b *Browser) call(session, method string, params, result any) error {
	answer := make(chan message, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.waiting[id] = answer
	text, err := json.Marshal(message{ID: id, Session: session, Method: method, Params: params})
	if err == nil {
		_, err = b.in.Write(append(text, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("chromium: %s: %w", method, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("chromium: %s: %s", method, m.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-b.ended:
		return fmt.Errorf("chromium: %s: the browser has ended", method)
	case <-time.After(patience):
		return fmt.Errorf("chromium: %s: no answer", method)
	}
}

// params are those of a call.
type params = map[string]any

// Page opens an empty page of this size, in CSS pixels, and with the light or the
// dark colours.
func (b *Browser) Page(width, height int, scheme string) *Page {
	b.t.Helper()
	var target struct {
		ID string `json:"targetId"`
	}
	must(b.t, b.call("", "Target.createTarget", params{"url": "about:blank"}, &target))
	var session struct {
		ID string `json:"sessionId"`
	}
	must(b.t, b.call("", "Target.attachToTarget", params{"targetId": target.ID, "flatten": true}, &session))
	p := &Page{b: b, session: session.ID, target: target.ID}
	b.mu.Lock()
	b.pages[p.session] = p
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network", "Audits"} {
		p.Call(domain+".enable", nil, nil)
	}
	p.Call("Emulation.setDeviceMetricsOverride", params{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
	p.Media("screen", scheme)
	return p
}

// A Page is one page of a browser. A failure of the browser ends the test.
type Page struct {
	b               *Browser
	session, target string

	mu       sync.Mutex
	requests []string
	trouble  []string
}

// heard notes what a page asked for, and what it should not have done.
func (p *Page) heard(method string, text json.RawMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch method {
	case "Network.requestWillBeSent":
		var m struct{ Request struct{ URL string } }
		_ = json.Unmarshal(text, &m)
		p.requests = append(p.requests, m.Request.URL)
	case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded", "Page.javascriptDialogOpening":
		p.trouble = append(p.trouble, method+" "+string(text))
	}
}

// Call asks the browser something about the page. result may be nil.
func (p *Page) Call(method string, params, result any) {
	p.b.t.Helper()
	must(p.b.t, p.b.call(p.session, method, params, result))
}

// Media sets what the page is shown on, screen or print, and whether in light or
// dark.
func (p *Page) Media(media, scheme string) {
	p.b.t.Helper()
	p.Call("Emulation.setEmulatedMedia", params{"media": media, "features": []params{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// Open goes to a URL and waits until all of it is loaded.
func (p *Page) Open(url string) {
	p.b.t.Helper()
	var answer struct {
		ErrorText string `json:"errorText"`
	}
	p.Call("Page.navigate", params{"url": url}, &answer)
	if answer.ErrorText != "" {
		p.b.t.Fatalf("chromium: %s: %s", url, answer.ErrorText)
	}
	p.Until(`document.readyState === "complete" && location.href === ` + quote(url))
}

// Eval returns the value of an expression of JavaScript on the page in result,
// which may be nil. A promise is waited for.
func (p *Page) Eval(expression string, result any) {
	p.b.t.Helper()
	var answer struct {
		Result    struct{ Value json.RawMessage }
		Exception *struct {
			Text      string
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
	}
	p.Call("Runtime.evaluate", params{"expression": expression, "returnByValue": true, "awaitPromise": true}, &answer)
	if answer.Exception != nil {
		p.b.t.Fatalf("chromium: %s %s in %s", answer.Exception.Text, answer.Exception.Exception.Description, expression)
	}
	if result != nil {
		if err := json.Unmarshal(answer.Result.Value, result); err != nil {
			p.b.t.Fatalf("chromium: %s of %s: %v", answer.Result.Value, expression, err)
		}
	}
}

// Until waits until an expression is true.
func (p *Page) Until(expression string) {
	p.b.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var ok bool
		p.Eval("Boolean("+expression+")", &ok)
		if ok {
			return
		}
		if time.Now().After(end) {
			p.b.t.Fatalf("chromium: never true: %s", expression)
		}
	}
}

// Click clicks with the mouse on the middle of the first element that a CSS
// selector finds.
func (p *Page) Click(selector string) {
	p.b.t.Helper()
	var at struct{ X, Y float64 }
	p.Eval(`(() => { const e = document.querySelector(`+quote(selector)+`); e.scrollIntoView({block: "center"}); const r = e.getClientRects()[0]; return {x: r.x + r.width / 2, y: r.y + r.height / 2} })()`, &at)
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		p.Call("Input.dispatchMouseEvent", params{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
	}
}

// Type types text into the element that has the focus.
func (p *Page) Type(text string) {
	p.b.t.Helper()
	p.Call("Input.insertText", params{"text": text}, nil)
}

// Screenshot returns a PNG of the whole page.
func (p *Page) Screenshot() []byte {
	p.b.t.Helper()
	var size struct {
		CSS struct{ Width, Height float64 } `json:"cssContentSize"`
	}
	p.Call("Page.getLayoutMetrics", nil, &size)
	const tallest = 16_000 // a texture's limit
	var shot struct{ Data string }
	p.Call("Page.captureScreenshot", params{"format": "png", "captureBeyondViewport": true,
		"clip": params{"x": 0, "y": 0, "width": size.CSS.Width, "height": min(size.CSS.Height, tallest), "scale": 1}}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	must(p.b.t, err)
	return png
}

// PDF returns the page as it prints.
func (p *Page) PDF() []byte {
	p.b.t.Helper()
	var doc struct{ Data string }
	p.Call("Page.printToPDF", params{"printBackground": true}, &doc)
	pdf, err := base64.StdEncoding.DecodeString(doc.Data)
	must(p.b.t, err)
	return pdf
}

// Requests are the URLs that the page has asked for.
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.requests...)
}

// Trouble is what the page wrote to its console, what it threw, and what the
// browser refused or warned of, violations of its policy included.
func (p *Page) Trouble() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.trouble, "\n")
}

// Close closes the page.
func (p *Page) Close() {
	p.b.t.Helper()
	must(p.b.t, p.b.call("", "Target.closeTarget", params{"targetId": p.target}, nil))
}

func quote(s string) string {
	text, _ := json.Marshal(s) // a string
	return string(text)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
