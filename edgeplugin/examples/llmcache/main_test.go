package main

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"gw/edgeplugin"
	"gw/edgeplugin/edgeplugintest"
)

func post(app, body string) *edgeplugin.EnrichedRequest {
	return &edgeplugin.EnrichedRequest{Method: "POST", Path: "/llm/m/v1/chat/completions", Target: "LLM/m", Body: []byte(body), App: &edgeplugin.App{ID: app}}
}

func TestRepeatedRequestsAreAnsweredFromMemory(t *testing.T) {
	asked := 0
	cache := New()
	now := time.Unix(1000, 0)
	cache.now = func() time.Time { return now }
	run := edgeplugintest.Start(t, cache, edgeplugintest.Options{Config: map[string]string{"ttl": "1m", "max_entries": "2", "report_every": "1h"},
		Upstream: func(q *edgeplugin.EnrichedRequest) *edgeplugin.EnrichedResponse {
			asked++
			return &edgeplugin.EnrichedResponse{StatusCode: 200, Body: append([]byte("answer to "), q.Body...), Headers: map[string]string{"Content-Type": "application/json"}}
		}})
	for _, c := range []struct {
		app, body string
		asked     int
		cache     string
	}{
		{"ann", "1", 1, "miss"}, {"ann", "1", 1, "hit"}, {"bob", "1", 2, "miss"}, {"ann", "2", 3, "miss"}, // the third pushes the first out
		{"ann", "1", 4, "miss"},
	} {
		a := run.Do(post(c.app, c.body))
		if asked != c.asked || a.Headers["X-Cache"] != c.cache || string(a.Body) != "answer to "+c.body || a.Headers["Content-Type"] != "application/json" {
			t.Errorf("%s %s: asked %d times, %v %s; want %d, %s", c.app, c.body, asked, a.Headers, a.Body, c.asked, c.cache)
		}
	}
	now = now.Add(time.Minute)
	if a := run.Do(post("ann", "1")); a.Headers["X-Cache"] != "miss" {
		t.Errorf("after its time: %v", a.Headers)
	}
	run.Shutdown()
	sent := run.Payloads()
	var s Statistics
	if len(sent) != 1 || json.Unmarshal(sent[0].Payload, &s) != nil || s.Hits != 1 || s.Misses != 5 || s.Stored != 5 || s.BytesSaved != 11 {
		t.Errorf("sent %d payloads, %+v", len(sent), s)
	}
}

func TestRequestsOfOneIDDoNotGetEachOthersAnswers(t *testing.T) {
	annAsks, annAnswered, bobAsks := make(chan struct{}), make(chan struct{}), make(chan struct{})
	annIsAsking, bobIsAsking := sync.OnceFunc(func() { close(annAsks) }), sync.OnceFunc(func() { close(bobAsks) })
	run := edgeplugintest.Start(t, New(), edgeplugintest.Options{Config: map[string]string{"report_every": "1h"},
		Upstream: func(q *edgeplugin.EnrichedRequest) *edgeplugin.EnrichedResponse {
			if q.App.ID == "ann" { // asks first and is answered first
				annIsAsking()
				<-bobAsks
			} else {
				bobIsAsking()
				<-annAnswered
			}
			return &edgeplugin.EnrichedResponse{StatusCode: 200, Body: []byte("for " + q.App.ID)}
		}})
	ask := func(app string) edgeplugintest.Answer {
		q := post(app, "1")
		q.RequestID = "same"
		return run.Do(q)
	}
	bobAnswered := make(chan struct{})
	go func() { ask("ann"); close(annAnswered) }()
	<-annAsks
	go func() { ask("bob"); close(bobAnswered) }()
	<-bobAnswered
	for _, app := range []string{"ann", "bob"} {
		if a := ask(app); a.Headers["X-Cache"] != "hit" || string(a.Body) != "for "+app {
			t.Errorf("%s: %v %s", app, a.Headers, a.Body)
		}
	}
}

func TestWhatIsNotSentIsCountedAgain(t *testing.T) {
	cache := New()
	run := edgeplugintest.Start(t, cache, edgeplugintest.Options{Config: map[string]string{"report_every": "1h"}, SendError: edgeplugin.ErrQueueFull})
	run.Do(post("a", "1"))
	run.Shutdown()
	if n := cache.misses.Load(); n != 1 {
		t.Errorf("%d misses are left to be sent, want 1", n)
	}
}

func TestWrongSettingsAreRefused(t *testing.T) {
	if _, err := edgeplugintest.Initialize(t, New(), edgeplugintest.Options{Config: map[string]string{"ttl": "0s"}}); err == nil {
		t.Error("a ttl of 0s was taken")
	}
}
