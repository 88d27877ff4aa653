"use strict";
// Filters the rows of all tables by text, agent and decision. Without this
// script the page shows everything.
(function () {
  var rows = Array.prototype.slice.call(document.querySelectorAll("[data-row]"));
  if (!rows.length) return;
  var texts = rows.map(function (r) { return r.textContent.toLowerCase(); });
  var form = document.createElement("div");
  form.id = "find";
  form.setAttribute("role", "search");
  function field(name, input) {
    var label = document.createElement("label");
    label.textContent = name;
    label.appendChild(input);
    form.appendChild(label);
    input.addEventListener("input", apply);
    return input;
  }
  function choice(name, attribute) {
    var select = document.createElement("select"), seen = new Set();
    rows.forEach(function (r) { if (r.hasAttribute(attribute)) seen.add(r.getAttribute(attribute)); });
    [""].concat(Array.from(seen).sort()).forEach(function (v, i) {
      var o = document.createElement("option");
      o.value = i ? "=" + v : "";
      o.textContent = i ? v || "(nobody named)" : "all";
      select.appendChild(o);
    });
    return field(name, select);
  }
  var text = document.createElement("input");
  text.type = "search";
  field("Search", text);
  var agent = choice("Agent", "data-agent"), how = choice("Outcome", "data-how");
  var out = document.createElement("output");
  out.setAttribute("aria-live", "polite");
  form.appendChild(out);
  function fits(row, attribute, value) {
    return !value || !row.hasAttribute(attribute) || "=" + row.getAttribute(attribute) === value;
  }
  function apply() {
    var words = text.value.toLowerCase().split(/\s+/).filter(Boolean), shown = 0;
    rows.forEach(function (r, i) {
      var ok = fits(r, "data-agent", agent.value) && fits(r, "data-how", how.value) &&
        words.every(function (w) { return texts[i].indexOf(w) >= 0; });
      r.hidden = !ok;
      if (ok) shown++;
    });
    out.textContent = shown === rows.length ? "" : shown + " of " + rows.length + " rows";
  }
  document.getElementById("top").after(form);
  // A link to a record opens it, and shows it if it was filtered away.
  function reveal() {
    var d = /^#r[0-9]+-[0-9]+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    if (!d) return;
    d.open = true;
    d.closest("tr").hidden = false;
    d.scrollIntoView({ block: "center" });
  }
  window.addEventListener("hashchange", reveal);
  reveal();
})();
