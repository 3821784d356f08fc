package cli

import (
	"fmt"
	"time"

	"gw/rpc/gwv1"
)

// showEdge prints all that is known of an edge.
func showEdge(c *Context, res *gwv1.GetEdgeResponse) error {
	e := res.GetEdge()
	t := &table{headings: []string{"EDGE", e.GetId()}}
	state := func(name string, state cell, reason string) {
		if reason != "" {
			state.text += ": " + reason
		}
		t.add(name, state)
	}
	t.add("namespace", e.GetNamespace())
	state("connection", connectionCell(e), e.GetConnectionReason())
	state("sync", syncCell(e), e.GetSyncReason())
	state("health", healthCell(e), e.GetHealthReason())
	t.add("last heartbeat", c.ago(e.GetLastHeartbeat()))
	t.add("loaded", fmt.Sprintf("%s (release %d)", e.GetLoadedChecksum(), e.GetLoadedRelease()))
	t.add("released", fmt.Sprintf("%s (release %d)", e.GetReleasedChecksum(), e.GetTargetRelease()))
	t.add("expected", e.GetExpectedChecksum()+" (saved)")
	if a := e.GetApplyError(); a != nil {
		t.add("apply error", cell{applyError(a) + ", " + c.ago(a.GetAt()), red})
	}
	t.add("version", e.GetVersion())
	t.add("build", e.GetBuild())
	t.add("address", e.GetRemoteAddress())
	t.add("session", e.GetSessionId())
	if e.GetConflictingSessionId() != "" {
		t.add("conflict", cell{"another live process carries this ID, session " + e.GetConflictingSessionId() + at(e.GetConflictingAddress()), red})
	}
	t.add("first seen", stamp(e.GetFirstSeen()))
	t.add("started", stamp(e.GetStartedAt()))
	t.add("certificate ends", c.until(e.GetCertificateNotAfter()))
	t.add("labels", pairs(e.GetLabels()))
	t.add("metadata", pairs(e.GetMetadata()))
	t.add("access", accessText(e))
	addActivity(t, res.GetActivity())
	if err := t.write(c.Stdout, c.colors(c.Stdout)); err != nil {
		return err
	}
	return showEvents(c, res)
}

func at(address string) string {
	if address == "" {
		return ""
	}
	return " at " + address
}

// accessText says how far the edge has followed changes of tokens, apps and secrets.
func accessText(e *gwv1.Edge) string {
	text := "version " + itoa(e.GetAccessVersion())
	switch {
	case e.GetAccessReset():
		return text + ", so far behind that it asks anew about every token"
	case e.GetAccessBehind() > 0:
		return fmt.Sprintf("%s, %d behind", text, e.GetAccessBehind())
	}
	return text
}

// addActivity adds what the edge does, as its heartbeats say.
func addActivity(t *table, a *gwv1.Activity) {
	v := a.GetVitals()
	if v == nil {
		t.add("activity", "not reported yet")
		return
	}
	if r := a.GetRates(); r != nil {
		t.add("requests", fmt.Sprintf("%.1f/s over %s, %.1f %% errors, %.1f %% refused; %d since it started", r.GetRequestsPerSecond(), span(r.GetWindow().AsDuration()),
			100*r.GetErrorRatio(), 100*r.GetRefusedRatio(), v.GetRequestsTotal()))
		if r.GetP50() != nil {
			t.add("latency", fmt.Sprintf("p50 %s, p95 %s, p99 %s", brief(r.GetP50().AsDuration()), brief(r.GetP95().AsDuration()), brief(r.GetP99().AsDuration())))
		}
		t.add("cpu", fmt.Sprintf("%.0f %% of %d", 100*r.GetCpuRatio(), v.GetCpus()))
	} else {
		t.add("requests", itoa(v.GetRequestsTotal())+" since it started")
	}
	t.add("active", fmt.Sprintf("%d requests, %d streams, %d connections", v.GetActiveRequests(), v.GetActiveStreams(), v.GetActiveConnections()))
	t.add("memory", fmt.Sprintf("%s, %d goroutines", mib(v.GetRssBytes()), v.GetGoroutines()))
	if v.GetDiskTotalBytes() > 0 {
		t.add("disk", fmt.Sprintf("%s free of %s", mib(v.GetDiskFreeBytes()), mib(v.GetDiskTotalBytes())))
	}
	t.add("queue", fmt.Sprintf("%d payloads (%s), %d usage records", v.GetPayloadsPending(), mib(v.GetPayloadBytesPending()), v.GetUsagePending()))
	if v.GetSpoolLost() > 0 {
		t.add("lost", cell{fmt.Sprintf("%d payloads and usage records, in a spool that was damaged", v.GetSpoolLost()), red})
	}
	t.add("uptime", span(time.Duration(min(v.GetUptimeMs(), 1<<43))*time.Millisecond))
}

// brief shows a latency with three digits.
func brief(d time.Duration) string {
	for unit := time.Nanosecond; unit < time.Second; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return d.Round(100 * time.Millisecond).String()
}

func mib(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.0f GiB", float64(n)/(1<<30))
	case n >= 1<<20 || n == 0:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
}

// showEvents prints an edge's timeline, newest first, and since when connections are in it.
func showEvents(c *Context, res *gwv1.GetEdgeResponse) error {
	t := &table{headings: []string{"WHEN", "EVENT", "BY"}}
	for _, e := range res.GetEvents() {
		t.add(c.ago(e.GetAt()), eventCell(e), e.GetBy())
	}
	if len(t.rows) > 0 {
		fmt.Fprintln(c.Stdout)
		if err := t.write(c.Stdout, c.colors(c.Stdout)); err != nil {
			return err
		}
	}
	if since := res.GetListeningSince(); since != nil {
		c.say("This leader has been listening for %s: connections before that are not listed.", span(c.now().Sub(since.AsTime())))
	}
	return nil
}

func eventCell(e *gwv1.EdgeEvent) cell {
	switch e.GetKind() {
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_APPLY_FAILED, gwv1.EdgeEventKind_EDGE_EVENT_KIND_LOST,
		gwv1.EdgeEventKind_EDGE_EVENT_KIND_REVOKED, gwv1.EdgeEventKind_EDGE_EVENT_KIND_DUPLICATE:
		return cell{e.GetText(), red}
	case gwv1.EdgeEventKind_EDGE_EVENT_KIND_LATE, gwv1.EdgeEventKind_EDGE_EVENT_KIND_STREAM_BROKE:
		return cell{e.GetText(), yellow}
	}
	return cell{e.GetText(), plainText}
}

// wholeEdge is an edge for programs: its own fields, and beside them what it does and what happened to it.
func wholeEdge(res *gwv1.GetEdgeResponse) plain {
	edge, _ := plainOf(res.GetEdge()).(object)
	whole, _ := plainOf(res).(object)
	for _, m := range whole {
		if m.key != "edge" {
			edge = append(edge, m)
		}
	}
	return edge
}
