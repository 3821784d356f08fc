package node

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gw/node/uplink"
	"gw/rpc/gwv1"
)

// opsHandler serves /livez, /readyz and /metrics.
func (e *edge) opsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", e.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(e.metrics, promhttp.HandlerOpts{Registry: e.metrics}))
	return mux
}

// ready says whether the edge has a release to serve; with ?verbose, also from when, and how it stands with the hubs.
func (e *edge) ready(w http.ResponseWriter, r *http.Request) {
	status := e.uplink.Status()
	table := e.gateway.Table()
	var b strings.Builder
	if e.draining.Load() {
		http.Error(w, "not ready: the edge is stopping", http.StatusServiceUnavailable)
		return
	}
	if table == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		reason := "no hub was reached yet"
		switch {
		case status.ApplyError != nil:
			reason = "the release could not be applied: " + status.ApplyError.Message
		case status.Target != nil && status.Target.Number == 0:
			reason = fmt.Sprintf("nothing was pushed to namespace %s yet", status.Namespace)
		case status.Target != nil:
			reason = fmt.Sprintf("release %d is on its way", status.Target.Number)
		case status.LastError != "":
			reason += ": " + status.LastError
		}
		fmt.Fprintf(&b, "not ready: %s\n", reason)
	} else {
		fmt.Fprintln(&b, "ok")
	}
	if r.URL.Query().Has("verbose") {
		if table != nil {
			fmt.Fprintf(&b, "[+] release %d of namespace %s, checksum %s, %d resources\n", table.Number(), table.Namespace(), table.Checksum().Short(), table.Len())
		} else {
			fmt.Fprintln(&b, "[-] release: none")
		}
		if status.Following {
			fmt.Fprintf(&b, "[+] hub %s\n", status.Hub)
		} else {
			fmt.Fprintf(&b, "[i] hub: not connected (this does not affect readiness): %s\n", status.LastError)
		}
		if h := e.health(); h.State != gwv1.Health_HEALTH_OK {
			fmt.Fprintf(&b, "[i] health: %s\n", h.Reason)
		}
	}
	fmt.Fprint(w, b.String())
}

// health is what heartbeats say of the edge.
func (e *edge) health() uplink.Health {
	var reasons []string
	if err := e.release.fault(); err != nil {
		reasons = append(reasons, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if since, ok := e.tokens.Grace(); ok {
		reasons = append(reasons, "no hub answers since "+since.UTC().Format(time.RFC3339)+": known tokens are served on the offline grace")
	}
	reasons = append(reasons, e.ailments()...)
	plugins, down := e.pluginAilments()
	reasons = append(reasons, plugins...)
	if said := e.uplink.Status().Revoked; said != "" {
		reasons = append([]string{said + "; it serves what it has, and known tokens until they are due to be validated again"}, reasons...)
		return uplink.Health{State: gwv1.Health_HEALTH_FAILING, Reason: strings.Join(reasons, "; ")}
	}
	if down {
		return uplink.Health{State: gwv1.Health_HEALTH_FAILING, Reason: strings.Join(reasons, "; ")}
	}
	if len(reasons) > 0 {
		return uplink.Health{State: gwv1.Health_HEALTH_DEGRADED, Reason: strings.Join(reasons, "; ")}
	}
	return uplink.Health{State: gwv1.Health_HEALTH_OK}
}
