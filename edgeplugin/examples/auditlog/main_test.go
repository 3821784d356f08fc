package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gw/edgeplugin"
	"gw/edgeplugin/edgeplugintest"
)

func TestRequestsAreRecordedWithoutBodies(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	run := edgeplugintest.Start(t, New(), edgeplugintest.Options{Config: map[string]string{"file": file}})
	run.Do(&edgeplugin.EnrichedRequest{RequestID: "r1", Method: "GET", Path: "/a", Target: "API/a", App: &edgeplugin.App{ID: "ann"}, Body: []byte("s3cret")})
	run.Do(&edgeplugin.EnrichedRequest{RequestID: "r2", Method: "GET", Path: "/b", Target: "API/b"})
	run.Shutdown()
	var records []Record
	for _, p := range run.Payloads() {
		var batch []Record
		if err := json.Unmarshal(p.Payload, &batch); err != nil {
			t.Fatal(err)
		}
		records = append(records, batch...)
	}
	if len(records) != 2 || records[0].RequestID != "r1" || records[0].App != "ann" || records[1].Target != "API/b" || records[1].Status != 200 {
		t.Errorf("records %+v", records)
	}
	b, err := os.ReadFile(file)
	if err != nil || strings.Count(string(b), "\n") != 2 || strings.Contains(string(b), "s3cret") {
		t.Errorf("file: %v\n%s", err, b)
	}
}

func TestTheHubCountsByDayAndTarget(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	edge := edgeplugintest.Start(t, New(), edgeplugintest.Options{})
	hub := edgeplugintest.Start(t, New(), edgeplugintest.Options{Runtime: edgeplugin.RuntimeHub, Config: map[string]string{"file": file}})
	day := time.Now().UTC().Format(time.DateOnly)
	edge.Do(&edgeplugin.EnrichedRequest{RequestID: "r1", Target: "API/a"})
	edge.Do(&edgeplugin.EnrichedRequest{RequestID: "r2", Target: "API/a"})
	edge.Do(&edgeplugin.EnrichedRequest{RequestID: "r3", Target: "API/b"})
	edge.Shutdown()
	edge.Deliver(hub)
	if got, want := string(hub.KV()[day+"/API/a"]), `{"requests":2,"errors":0}`; got != want {
		t.Errorf("API/a: %s, want %s", got, want)
	}
	if ok, err := hub.Accept(&edgeplugin.EdgePayload{Payload: []byte(`[{"at":"2026-01-02T03:04:05Z","target":"API/b","status":502}]`), EdgeID: "e", EdgeNamespace: "eu", Metadata: map[string]string{"type": "audit_records"}}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if got, want := string(hub.KV()["2026-01-02/API/b"]), `{"requests":1,"errors":1}`; got != want {
		t.Errorf("API/b: %s, want %s", got, want)
	}
	if ok, err := hub.Accept(&edgeplugin.EdgePayload{Payload: []byte(`nonsense`), Metadata: map[string]string{"type": "audit_records"}}); !ok || err == nil {
		t.Errorf("a damaged batch: handled %v, %v", ok, err)
	}
	if ok, err := hub.Accept(&edgeplugin.EdgePayload{Payload: []byte(`[]`)}); ok || err != nil {
		t.Errorf("another's payload: %v, %v", ok, err)
	}
	hub.Shutdown()
	b, err := os.ReadFile(file)
	if err != nil || strings.Count(string(b), "\n") != 4 || !strings.Contains(string(b), `"edge":"eu/e"`) {
		t.Errorf("file: %v\n%s", err, b)
	}
}

func TestRecordsWaitWhileTheQueueIsFull(t *testing.T) {
	l := New()
	run := edgeplugintest.Start(t, l, edgeplugintest.Options{SendError: edgeplugin.ErrQueueFull})
	run.Do(&edgeplugin.EnrichedRequest{Target: "API/a"})
	run.Shutdown()
	if len(l.records) != 1 {
		t.Errorf("%d records are kept, want 1", len(l.records))
	}
}

func TestBatchesOfLongPathsArePayloadsThatFit(t *testing.T) {
	l := New()
	run := edgeplugintest.Start(t, l, edgeplugintest.Options{})
	const n = 100
	for range n {
		run.Do(&edgeplugin.EnrichedRequest{Target: "API/a", Path: "/" + strings.Repeat("p", 30<<10)})
	}
	run.Do(&edgeplugin.EnrichedRequest{Target: "API/a", Path: "/" + strings.Repeat("p", 1<<20)})
	run.Do(&edgeplugin.EnrichedRequest{Target: "API/last"})
	run.Shutdown()
	var records []Record
	payloads := run.Payloads()
	for _, p := range payloads {
		var batch []Record
		if err := json.Unmarshal(p.Payload, &batch); err != nil {
			t.Fatal(err)
		}
		records = append(records, batch...)
	}
	if len(records) != n+1 || records[n].Target != "API/last" || len(payloads) > 6 {
		t.Errorf("%d records in %d payloads, want %d in a few", len(records), len(payloads), n+1)
	}
	if l.lost != 1 {
		t.Errorf("%d records are counted as lost, want the one that fits into no payload", l.lost)
	}
}
