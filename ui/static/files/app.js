"use strict";
// What the pages do beyond plain HTML. Every page reads, and every form works, without it.
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Relative times, in the words of page.Ago, by the hub's clock: the viewer's may be wrong.
  const ahead = Date.now() - Number(root.dataset.now);
  const ago = (ms) => {
    const s = Math.floor(ms / 1000);
    if (s < 2) return "now";
    if (s < 60) return s + " s ago";
    if (s < 3600) return Math.floor(s / 60) + " min ago";
    if (s < 86400) return Math.floor(s / 3600) + " h ago";
    return null;
  };
  const seen = new IntersectionObserver((entries) => {
    for (const e of entries) times.set(e.target, e.isIntersecting);
  });
  const times = new Map(); // element → whether it is in sight
  const adopt = () => {
    for (const t of document.querySelectorAll("time[datetime]"))
      if (!times.has(t)) { times.set(t, false); seen.observe(t); }
    for (const t of times.keys()) if (!t.isConnected) { times.delete(t); seen.unobserve(t); }
  };
  const tick = () => {
    if (document.hidden) return;
    for (const [t, inSight] of times) {
      if (!inSight) continue;
      const words = ago(Date.now() - ahead - Date.parse(t.dateTime));
      if (words && words !== t.textContent) t.textContent = words;
    }
  };
  adopt();
  setInterval(tick, 1000);

  // The badge admits when the page is not live.
  const badge = $("livestate");
  const say = (state, words) => {
    if (!badge || badge.dataset.state === "gone") return;
    badge.dataset.state = state;
    const span = badge.querySelector("span");
    if (span.textContent !== words) span.textContent = words;
    if (state === "on") root.removeAttribute("data-old");
    if (state !== "on" && !lost) lost = setTimeout(() => root.setAttribute("data-old", ""), 30000);
    if (state === "on") { clearTimeout(lost); lost = 0; }
  };
  let lost = 0;
  const stream = $("live");
  if (stream) {
    const again = () => setTimeout(() => htmx.trigger(stream, "again"), 2000 + 3000 * Math.random());
    say("lost", "Connecting…");
    stream.addEventListener("htmx:sse:after:connection", () => say("on", "Live"));
    stream.addEventListener("htmx:sse:error", () => say("lost", "Reconnecting…"));
    // The first connection is an ordinary request, which nobody repeats but us.
    stream.addEventListener("htmx:error", () => { say("lost", "Reconnecting…"); again(); });
    stream.addEventListener("htmx:response:error", () => { say("lost", "Not live"); again(); });
    stream.addEventListener("away", () => say("lost", "No answer from the cluster"));
    stream.addEventListener("back", () => say("on", "Live"));
    stream.addEventListener("signed-out", () => {
      say("lost", "Signed out");
      badge.dataset.state = "gone";
      const link = document.querySelector("[data-return]");
      link.href = "/login?next=" + encodeURIComponent(location.pathname + location.search);
      $("signed-out").hidden = false;
    });
  }

  // Questions are loaded into one dialog; links to them are pages of their own where this does not run.
  const dialog = $("dialog");
  document.addEventListener("htmx:after:swap", () => {
    adopt();
    tick();
    if (dialog && $("dialog-body").childElementCount && !dialog.open && asked) dialog.showModal();
    asked = false;
  });
  let asked = false;
  document.addEventListener("htmx:before:request", (e) => {
    const from = e.detail.ctx.sourceElement;
    if (from.getAttribute("hx-target") !== "#dialog-body") return;
    asked = true;
    from.closest("[popover]")?.hidePopover();
  });
  dialog?.addEventListener("close", () => $("dialog-body").replaceChildren());

  // Choosing a namespace chooses the scope it belongs to, before htmx asks for what would change.
  document.addEventListener("change", (e) => {
    const id = e.target.dataset.choose;
    if (id) $(id).checked = true;
    if (e.target.matches("[data-submit]")) e.target.form.requestSubmit();
  }, true);

  document.addEventListener("click", async (e) => {
    const copy = e.target.closest("[data-copy]");
    if (copy) {
      await navigator.clipboard.writeText(copy.dataset.copy);
      copy.closest("[popover]")?.hidePopover();
    }
  });

  $("theme")?.addEventListener("click", () => {
    const dark = getComputedStyle(root).colorScheme === "dark" ||
      (root.dataset.theme === undefined && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch {}
  });

  // Single keys, off wherever somebody types.
  document.addEventListener("keydown", (e) => {
    const typing = e.target.matches("input, select, textarea, [contenteditable]");
    if (e.key === "Escape" && e.target.id === "q") {
      if (e.target.value) e.target.value = ""; else e.target.blur();
      e.preventDefault();
      return;
    }
    if (typing || e.ctrlKey || e.metaKey || e.altKey || dialog?.open) return;
    const target = document.querySelector(`[data-key="${CSS.escape(e.key)}"]`);
    if (!target) return;
    e.preventDefault();
    if (target.matches("input")) { target.focus(); target.select(); } else target.click();
  });
})();
