package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func TestRecordsWaitWhileTheQueueIsFull(t *testing.T) {
	l := New()
	run := edgeplugintest.Start(t, l, edgeplugintest.Options{SendError: edgeplugin.ErrQueueFull})
	run.Do(&edgeplugin.EnrichedRequest{Target: "API/a"})
	run.Shutdown()
	if len(l.records) != 1 {
		t.Errorf("%d records are kept, want 1", len(l.records))
	}
}
