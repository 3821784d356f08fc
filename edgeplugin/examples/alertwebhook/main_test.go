package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gw/edgeplugin"
	"gw/edgeplugin/edgeplugintest"
)

func TestAFailingTargetIsToldOnceAWindow(t *testing.T) {
	told := make(chan Alert, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var a Alert
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			t.Error(err)
		}
		told <- a
	}))
	defer hook.Close()
	t.Setenv("ALERT_URL", hook.URL+"/s3cret")
	status := 200
	run := edgeplugintest.Start(t, New(), edgeplugintest.Options{Config: map[string]string{"url_env": "ALERT_URL", "percent": "50", "min_requests": "4"},
		Upstream: func(*edgeplugin.EnrichedRequest) *edgeplugin.EnrichedResponse {
			return &edgeplugin.EnrichedResponse{StatusCode: status}
		}})
	for i := range 10 {
		if status = 200; i >= 2 {
			status = 503
		}
		run.Do(&edgeplugin.EnrichedRequest{Target: "API/a"})
	}
	a := <-told
	if a.Target != "API/a" || a.Errors != 2 || a.Requests != 4 || !strings.Contains(a.Text, "2 of 4") {
		t.Errorf("told %+v", a)
	}
	select {
	case again := <-told:
		t.Errorf("told again: %+v", again)
	default:
	}
	if _, err := edgeplugintest.Initialize(t, New(), edgeplugintest.Options{Config: map[string]string{"url": "ftp:"}}); err == nil {
		t.Error("no URL was taken")
	}
}
