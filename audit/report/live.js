"use strict";
// Shows records as they come, newest first, and how a call ended in the row of
// the call. All that is received is put in as text.
(function () {
  var MOST = 500;
  var body = document.getElementById("records"), state = document.getElementById("state"), rows = new Map();
  var form = document.createElement("div"), label = document.createElement("label"), text = document.createElement("input");
  form.id = "find";
  form.setAttribute("role", "search");
  label.textContent = "Search";
  text.type = "search";
  label.appendChild(text);
  form.appendChild(label);
  document.getElementById("top").after(form);
  function fit(row) {
    var all = row.textContent.toLowerCase();
    row.hidden = !text.value.toLowerCase().split(/\s+/).every(function (w) { return all.indexOf(w) >= 0; });
  }
  text.addEventListener("input", function () { rows.forEach(fit); });
  function cell(row, content, tag) {
    var c = document.createElement(tag || "td");
    if (tag) c.scope = "row";
    if (typeof content === "string") c.textContent = content; else c.appendChild(content);
    row.appendChild(c);
    return c;
  }
  function raw(seq, json) {
    var d = document.createElement("details"), s = document.createElement("summary"), p = document.createElement("pre");
    s.textContent = seq;
    p.textContent = json;
    d.append(s, p);
    return d;
  }
  function paint(c, what) { c.className = what === "ok" ? "ok" : what === "denied" ? "bad" : what === "allowed" ? "" : "warn"; }
  function show(r) {
    var call = r.call && rows.get(r.call);
    if (call) {
      call.cells[3].textContent = r.what + (r.why ? ", " + r.why : "");
      paint(call.cells[3], r.what);
      call.cells[0].appendChild(raw(r.seq, r.record));
      fit(call);
      return;
    }
    var row = document.createElement("tr");
    cell(row, raw(r.seq, r.record), "th");
    cell(row, r.time).className = "t";
    cell(row, r.agent || "");
    paint(cell(row, r.what), r.what);
    cell(row, r.call ? "of record " + r.call : r.action || "");
    cell(row, r.why || "");
    body.prepend(row);
    rows.set(r.seq, row);
    fit(row);
    if (rows.size > MOST) {
      var oldest = rows.keys().next().value;
      rows.get(oldest).remove();
      rows.delete(oldest);
    }
  }
  var events = new EventSource("events");
  events.onopen = function () { state.textContent = "up to date"; };
  events.onmessage = function (e) { show(JSON.parse(e.data)); };
  events.addEventListener("end", function (e) {
    events.close();
    state.textContent = e.data === "failed" ? "the log has failed: see the host" : "the log was closed";
  });
  events.onerror = function () {
    state.textContent = events.readyState === EventSource.CLOSED ? "not connected: too many viewers, or no access; reload to try again" : "connecting again";
  };
})();
