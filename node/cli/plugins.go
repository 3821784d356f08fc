package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gw/rpc/gwv1"
)

// Plugins is "gw plugins".
type Plugins struct {
	Show        PluginsShow `cmd:"" default:"withargs" help:"List plugins: where they run, how they are, and what waits for them."`
	KV          PluginsKV   `cmd:"" name:"kv" help:"List the keys a hub plugin keeps, or print a value."`
	DeadLetters DeadLetters `cmd:"" name:"dead-letters" help:"Payloads that no hub plugin wanted."`
	New         PluginsNew  `cmd:"" help:"Write the beginning of a plugin: a Go module that compiles, with the SDK's sources beside it."`
}

// Examples returns the examples of the command's help.
func (*Plugins) Examples() string {
	return `
gw plugins
gw plugins kv 7
gw plugins kv 7 totals/edge-1
gw plugins dead-letters list
gw plugins dead-letters redeliver --all --plugin 7
gw plugins new ratelimit`
}

// PluginsShow is "gw plugins".
type PluginsShow struct {
	Namespace string `short:"n" help:"Only what edges of this namespace have to do with."`
	Stale
	Output
	Hub Connection `embed:""`
}

// Examples returns the examples of the command's help.
func (*PluginsShow) Examples() string { return "gw plugins\ngw plugins -n staging\ngw plugins -o json" }

// Run lists plugins, a row for each place where one is.
func (p *PluginsShow) Run(ctx context.Context, c *Context) error {
	h, err := p.openStale(c, &p.Hub)
	if err != nil {
		return err
	}
	res, err := h.plugins.ListPlugins(ctx, &gwv1.ListPluginsRequest{Namespace: p.Namespace})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"ID", "TYPE", "PLUGIN", "AT", "STATE", "RESTARTS", "P50", "P99", "QUEUE", "OLDEST", "LOST", "KEYS", "WHY"}}
	none := "No plugin is configured. Save one with: gw apply -f plugin.yaml (kind: Plugin)"
	err = list(&p.Output, c, res.GetPlugins(), none, t, func(i *gwv1.PluginInfo) { addPlugin(c, t, i) })
	if err == nil && p.forPeople() {
		tellDeadLetters(c, res.GetPlugins())
	}
	return err
}

// addPlugin adds a row for each place; one that is nowhere has a row of its own.
func addPlugin(c *Context, t *table, i *gwv1.PluginInfo) {
	if len(i.GetPlaces()) == 0 {
		t.add(itoa(uint64(i.GetId())), i.GetType(), i.GetName(), "", cell{"Nowhere", faint}, "", "", "", "", "", "", keysText(i), whyNowhere(i))
		return
	}
	for _, at := range i.GetPlaces() {
		where := "hub " + hubName(at.GetHubId())
		if at.GetEdgeId() != "" {
			where = at.GetEdgeId()
		}
		p, q := at.GetProcess(), at.GetQueue()
		queue, oldest, lost := "", "", ""
		if q != nil {
			queue, oldest = fmt.Sprintf("%d (%s)", q.GetPending(), byteSize(q.GetPendingBytes())), c.ago(q.GetOldest())
			if q.GetPending() == 0 {
				queue, oldest = "0", ""
			}
			lost = lostText(q)
		}
		restarts := ""
		if p != nil {
			restarts = itoa(p.GetRestarts())
		}
		t.add(itoa(uint64(i.GetId())), i.GetType(), i.GetName(), where, processCell(p), restarts,
			latencyText(p.GetP50().AsDuration()), latencyText(p.GetP99().AsDuration()), queue, oldest, lost, keysText(i), whyPlugin(i, p, q))
	}
}

func whyNowhere(i *gwv1.PluginInfo) string {
	switch {
	case i.GetConfigured() && i.GetType() == "hub":
		return "no hub has told of it yet"
	case i.GetConfigured():
		return "no edge runs it: push it, if that is not done"
	}
	return "not configured (any more); payloads for it were settled or are dead letters"
}

// lostText counts what will not be delivered.
func lostText(q *gwv1.PluginQueue) string {
	var parts []string
	for _, p := range []struct {
		n    uint64
		what string
	}{{q.GetExpired(), "expired"}, {q.GetRefused(), "refused"}, {q.GetDeadLettersDropped(), "dropped"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}

func keysText(i *gwv1.PluginInfo) string {
	if i.GetType() != "hub" {
		return ""
	}
	return itoa(uint64(i.GetKvKeys()))
}

func latencyText(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

func processCell(p *gwv1.PluginProcess) cell {
	switch p.GetState() {
	case gwv1.PluginState_PLUGIN_STATE_RUNNING:
		return cell{"Running", green}
	case gwv1.PluginState_PLUGIN_STATE_STARTING:
		return cell{"Starting", yellow}
	case gwv1.PluginState_PLUGIN_STATE_BACKOFF:
		return cell{"Restarting", red}
	case gwv1.PluginState_PLUGIN_STATE_FAILED:
		return cell{"Failed", red}
	case gwv1.PluginState_PLUGIN_STATE_STOPPED:
		return cell{"Stopped", faint}
	case gwv1.PluginState_PLUGIN_STATE_STANDBY:
		return cell{"Standby", faint}
	}
	return cell{"Not told", faint}
}

// whyPlugin is the most telling sentence about a plugin at a place.
func whyPlugin(i *gwv1.PluginInfo, p *gwv1.PluginProcess, q *gwv1.PluginQueue) string {
	switch {
	case p.GetReason() != "":
		return p.GetReason()
	case q.GetHalted() != "":
		return q.GetHalted()
	case i.GetLastError() != "":
		return "last error of a payload: " + i.GetLastError()
	}
	return ""
}

// hubName is enough of a hub's ID to tell it from others.
func hubName(id string) string { return id[:min(len(id), 8)] }

func tellDeadLetters(c *Context, plugins []*gwv1.PluginInfo) {
	n := uint32(0)
	for _, i := range plugins {
		n += i.GetDeadLetters()
	}
	if n > 0 {
		c.say("%d dead letters wait to be redelivered or dropped: gw plugins dead-letters list", n)
	}
}

// PluginsKV is "gw plugins kv".
type PluginsKV struct {
	ID     uint32 `arg:"" name:"id" help:"The hub plugin's number."`
	Key    string `arg:"" name:"key" optional:"" help:"Key whose value is printed, byte for byte."`
	Prefix string `placeholder:"TEXT" help:"Only keys that begin so."`
	Stale
	Output
	Hub Connection `embed:""`
}

// Examples returns the examples of the command's help.
func (*PluginsKV) Examples() string {
	return "gw plugins kv 7\ngw plugins kv 7 --prefix totals/\ngw plugins kv 7 totals/edge-1"
}

// Run lists keys, or prints a value.
func (p *PluginsKV) Run(ctx context.Context, c *Context) error {
	h, err := p.openStale(c, &p.Hub)
	if err != nil {
		return err
	}
	if p.Key != "" {
		return p.show(ctx, c, h)
	}
	req := &gwv1.ListPluginKVRequest{PluginId: p.ID, Prefix: p.Prefix, PageSize: 1000}
	var entries []*gwv1.PluginKVEntry
	for {
		res, err := h.plugins.ListPluginKV(ctx, req)
		if err != nil {
			return err
		}
		entries = append(entries, res.GetEntries()...)
		if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	t := &table{headings: []string{"KEY", "BYTES", "UPDATED", "EXPIRES"}}
	none := fmt.Sprintf("Hub plugin %d keeps nothing.", p.ID)
	if p.Prefix != "" {
		none = fmt.Sprintf("Hub plugin %d keeps no key that begins with %q.", p.ID, p.Prefix)
	}
	return list(&p.Output, c, entries, none, t, func(e *gwv1.PluginKVEntry) {
		t.add(e.GetKey(), itoa(uint64(e.GetSize())), c.ago(e.GetUpdatedAt()), c.until(e.GetExpiresAt()))
	})
}

// show prints a value as it is: where it goes, and whether that can stand it, is the caller's choice. A terminal is spared.
func (p *PluginsKV) show(ctx context.Context, c *Context, h *hub) error {
	res, err := h.plugins.GetPluginKV(ctx, &gwv1.GetPluginKVRequest{PluginId: p.ID, Key: p.Key})
	if err != nil {
		return err
	}
	if !p.forPeople() {
		return p.one(c, res.GetEntry())
	}
	value := res.GetEntry().GetValue()
	if c.isTerminal(c.Stdout) {
		value = append([]byte(printable(string(value))), '\n')
	}
	_, err = c.Stdout.Write(value)
	return err
}
