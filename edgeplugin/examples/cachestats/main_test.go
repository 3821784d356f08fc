package main

import (
	"strings"
	"testing"

	"gw/edgeplugin"
	"gw/edgeplugin/edgeplugintest"
)

func TestReportsAddUp(t *testing.T) {
	hub := edgeplugintest.Start(t, New(), edgeplugintest.Options{})
	report := func(edge, payload, kind string) (bool, error) {
		return hub.Accept(&edgeplugin.EdgePayload{Payload: []byte(payload), EdgeID: edge, EdgeNamespace: "eu", EdgeTimestamp: 7, Metadata: map[string]string{"type": kind}})
	}
	for _, edge := range []string{"a", "a", "b"} {
		if ok, err := report(edge, `{"hits":2,"misses":1,"bytes_saved":10}`, "cache_statistics"); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if got, want := string(hub.KV()["total"]), `{"hits":6,"misses":3,"stored":0,"bytes_saved":30,"reports":3,"last_report":7}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(hub.KV()["edge/eu/a"]); !strings.Contains(got, `"hits":4`) {
		t.Errorf("edge a: %s", got)
	}
	if ok, err := report("a", `{"hits":9}`, "something else"); ok || err != nil {
		t.Errorf("another's payload: %v, %v", ok, err)
	}
	if ok, err := report("a", `nonsense`, "cache_statistics"); !ok || err == nil {
		t.Errorf("a damaged report: handled %v, %v", ok, err)
	}
}
