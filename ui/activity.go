package ui

import (
	"strconv"
	"strings"
	"time"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// activity is what an edge does, as its page shows it.
func activity(a *gwv1.Activity) page.Activity {
	v := a.GetVitals()
	if v == nil {
		return page.Activity{}
	}
	p := page.Activity{Known: true, Lost: v.GetSpoolLost(), Details: []page.Pair{
		{Key: "Active", Value: page.Count(v.GetActiveRequests(), "request") + ", " + page.Count(v.GetActiveStreams(), "stream") + ", " + page.Count(v.GetActiveConnections(), "connection")},
		{Key: "Memory", Value: page.Size(v.GetRssBytes()) + ", " + page.Count(v.GetGoroutines(), "goroutine")},
		{Key: "Waiting for a hub", Value: page.Count(v.GetPayloadsPending(), "payload") + " (" + page.Size(v.GetPayloadBytesPending()) + "), " + page.Count(v.GetUsagePending(), "usage record")},
	}}
	if v.GetDiskTotalBytes() > 0 {
		p.Details = append(p.Details, page.Pair{Key: "Disk", Value: page.Size(v.GetDiskFreeBytes()) + " free of " + page.Size(v.GetDiskTotalBytes())})
	}
	p.Details = append(p.Details, page.Pair{Key: "Requests since it started", Value: page.Number(v.GetRequestsTotal())})
	if r := a.GetRates(); r != nil {
		p.Measures = measures(r, v.GetCpus())
	}
	return p
}

func measures(r *gwv1.Rates, cpus uint32) []page.Measure {
	all := []page.Measure{
		{Name: "Requests", Value: decimal(r.GetRequestsPerSecond()), Unit: "/s", Note: "over " + strconv.Itoa(int(r.GetWindow().AsDuration()/time.Second)) + " s"},
		{Name: "Errors", Value: decimal(100 * r.GetErrorRatio()), Unit: "%", Note: decimal(100*r.GetRefusedRatio()) + " % refused"},
	}
	if r.GetP50() != nil {
		value, unit := milliseconds(r.GetP50().AsDuration())
		p95, unit95 := milliseconds(r.GetP95().AsDuration())
		p99, unit99 := milliseconds(r.GetP99().AsDuration())
		all = append(all, page.Measure{Name: "Latency, median", Value: value, Unit: unit, Note: "p95 " + p95 + " " + unit95 + ", p99 " + p99 + " " + unit99})
	}
	return append(all, page.Measure{Name: "CPU", Value: decimal(100 * r.GetCpuRatio()), Unit: "%", Note: "of " + strconv.FormatUint(uint64(cpus), 10)})
}

// decimal writes a number with one decimal, or none if it is large.
func decimal(f float64) string {
	if f >= 100 {
		return page.Number(uint64(min(f+0.5, 1<<53)))
	}
	return strconv.FormatFloat(f, 'f', 1, 64)
}

// milliseconds writes a latency with about three digits.
func milliseconds(d time.Duration) (value, unit string) {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 2, 64), "ms"
	case ms < 1000:
		return strconv.FormatFloat(ms, 'f', 0, 64), "ms"
	default:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64), "s"
	}
}

// timeline is what happened to an edge, newest first.
func timeline(events []*gwv1.EdgeEvent) []page.Event {
	lines := make([]page.Event, 0, len(events))
	for _, e := range events {
		lines = append(lines, page.Event{At: when(e.GetAt()), Class: eventClasses[e.GetKind()], Kind: eventKind(e.GetKind()), Text: sentence(e.GetText()), By: e.GetBy()})
	}
	return lines
}

// eventClasses are the states whose icon and colour events have.
var eventClasses = map[gwv1.EdgeEventKind]string{
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_ENROLLED:            "st-created",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_REGISTERED_AGAIN:    "st-created",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_VERSION_CHANGED:     "st-updated",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_RELEASE_LOADED:      "st-insync",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_APPLY_FAILED:        "st-failed",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_CERTIFICATE_RENEWED: "st-ok",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_LABELS_CHANGED:      "st-updated",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_NAMESPACE_CHANGED:   "st-updated",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_REVOKED:             "st-failed",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_REMOVED:             "st-deleted",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_RETRY_ASKED:         "st-pending",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_CONNECTED:           "st-connected",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_STREAM_BROKE:        "st-stale",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_LATE:                "st-stale",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_LOST:                "st-disconnected",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_BACK:                "st-connected",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_GOODBYE:             "st-away",
	gwv1.EdgeEventKind_EDGE_EVENT_KIND_DUPLICATE:           "st-outdated",
}

func eventKind(k gwv1.EdgeEventKind) string {
	word := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(k.String(), "EDGE_EVENT_KIND_"), "_", " "))
	return strings.ToUpper(word[:1]) + word[1:]
}
