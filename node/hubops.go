package node

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// opsHandler serves /livez, /readyz and /metrics, which need no session: they tell no name and no secret.
func (h *hub) opsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) { h.answerHealth(w, r, true) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { h.answerHealth(w, r, false) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.metrics, promhttp.HandlerOpts{Registry: h.metrics}))
	return mux
}

// answerHealth answers 200 if every check passes, 503 otherwise: of those that tell whether the process must be started
// again, which never depend on other hubs, or of all. With ?verbose it lists them.
func (h *hub) answerHealth(w http.ResponseWriter, r *http.Request, liveOnly bool) {
	var failed, list strings.Builder
	for _, c := range h.store.Health() {
		if liveOnly && !c.Live {
			continue
		}
		mark := "[+]"
		if !c.OK {
			mark = "[-]"
			fmt.Fprintf(&failed, "%s: %s\n", c.Name, c.Detail)
		}
		fmt.Fprintf(&list, "%s %s: %s\n", mark, c.Name, c.Detail)
	}
	if !liveOnly { // a hub without its plugins is a hub: payloads for them wait at the edges
		for _, line := range h.plugins.complaints() {
			fmt.Fprintf(&list, "[!] %s\n", line)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if failed.Len() > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	switch {
	case r.URL.Query().Has("verbose"):
		fmt.Fprint(w, list.String())
	case failed.Len() > 0:
		fmt.Fprint(w, failed.String())
	default:
		fmt.Fprintln(w, "ok")
	}
}
