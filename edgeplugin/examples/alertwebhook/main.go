// Command alertwebhook is a plugin that tells a web hook when too many of a target's answers are server errors. It counts at
// each edge for itself, over windows of a minute, and says it once for each window. The URL may hold a secret, so it is read
// from the environment variable that the setting url_env names; the resource's env must name it too.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"gw/edgeplugin"
)

func main() { edgeplugin.Serve(New()) }

// Alert is what the web hook gets.
type Alert struct {
	Text     string    `json:"text"`
	Target   string    `json:"target"`
	Errors   int       `json:"errors"`
	Requests int       `json:"requests"`
	At       time.Time `json:"at"`
}

// Alerts is the plugin.
type Alerts struct {
	edgeplugin.BasePlugin
	url     string
	percent int
	least   int
	now     func() time.Time
	client  *http.Client
	queue   chan Alert

	mu      sync.Mutex
	windows map[string]*window // by target
	problem error              // of the last delivery
}

type window struct {
	began            time.Time
	requests, errors int
	told             bool
}

var (
	_ edgeplugin.ResponseHandler      = (*Alerts)(nil)
	_ edgeplugin.HealthChecker        = (*Alerts)(nil)
	_ edgeplugin.ConfigSchemaProvider = (*Alerts)(nil)
)

// New returns the plugin.
func New() *Alerts {
	return &Alerts{
		BasePlugin: edgeplugin.NewBasePlugin("alertwebhook", "1.0.0", "Tells a web hook of targets that fail."),
		percent:    50, least: 10, now: time.Now, client: &http.Client{Timeout: 10 * time.Second},
		queue: make(chan Alert, 100), windows: map[string]*window{},
	}
}

// ConfigSchema describes the settings.
func (a *Alerts) ConfigSchema() ([]byte, error) {
	return []byte(`{"type": "object", "additionalProperties": false, "properties": {
		"url": {"type": "string", "pattern": "^https?://"},
		"url_env": {"type": "string", "minLength": 1, "description": "the environment variable with the URL"},
		"percent": {"type": "integer", "minimum": 1, "maximum": 100, "description": "the share of answers from 500 on that is too many"},
		"min_requests": {"type": "integer", "minimum": 1, "description": "the least answers in a minute that say anything"}}}`), nil
}

// Initialize reads the settings and starts delivering.
func (a *Alerts) Initialize(ctx edgeplugin.Context, config map[string]string) (err error) {
	a.url = config["url"]
	if name := config["url_env"]; name != "" {
		a.url = os.Getenv(name)
	}
	if u, err := url.Parse(a.url); err != nil || u.Host == "" {
		return errors.New("url, or the variable that url_env names, must be an http or https URL")
	}
	for name, at := range map[string]*int{"percent": &a.percent, "min_requests": &a.least} {
		if v, ok := config[name]; ok {
			if *at, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	go a.deliver(ctx)
	return nil
}

// OnResponse counts. The answer is left alone, and nobody waits for the web hook.
func (a *Alerts) OnResponse(_ edgeplugin.Context, resp *edgeplugin.EnrichedResponse) (*edgeplugin.PluginResponse, error) {
	target, now := resp.Request.Target, a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.windows[target]
	if w == nil || now.Sub(w.began) >= time.Minute {
		w = &window{began: now}
		a.windows[target] = w
	}
	w.requests++
	if resp.StatusCode >= 500 {
		w.errors++
	}
	if w.told || w.requests < a.least || w.errors*100 < a.percent*w.requests {
		return nil, nil
	}
	w.told = true
	alert := Alert{Target: target, Errors: w.errors, Requests: w.requests, At: now.UTC(),
		Text: fmt.Sprintf("%s: %d of %d answers within a minute were server errors", target, w.errors, w.requests)}
	select {
	case a.queue <- alert:
	default:
		a.problem = errors.New("alerts come faster than the web hook takes them")
	}
	return nil, nil
}

// deliver posts alerts until ctx ends.
func (a *Alerts) deliver(ctx edgeplugin.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case alert := <-a.queue:
			err := a.post(ctx, alert)
			if err != nil {
				ctx.Services.Logger().Error("the web hook was not told", "target", alert.Target, "error", err)
			}
			a.mu.Lock()
			a.problem = err
			a.mu.Unlock()
		}
	}
}

// post delivers one alert, in three attempts.
func (a *Alerts) post(ctx context.Context, alert Alert) (err error) {
	body, err := json.Marshal(alert)
	if err != nil {
		return err
	}
	for attempt := range 3 {
		if attempt > 0 {
			select {
			case <-time.After(time.Duration(attempt) * time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err = a.try(ctx, body); err == nil {
			return nil
		}
	}
	return err
}

func (a *Alerts) try(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the web hook's URL can't be used")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			return failed.Err // without the URL, which may hold a secret
		}
		return err
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("the web hook answers %s", resp.Status)
	}
	return nil
}

// Health says what became of the last delivery.
func (a *Alerts) Health(edgeplugin.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.problem
}
