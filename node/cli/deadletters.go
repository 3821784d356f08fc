package cli

import (
	"context"
	"fmt"
	"strings"

	"gw/rpc/gwv1"
)

// DeadLetters is "gw plugins dead-letters".
type DeadLetters struct {
	List      DeadLettersList      `cmd:"" default:"withargs" help:"List them, newest first."`
	Show      DeadLettersShow      `cmd:"" help:"Show one in full."`
	Redeliver DeadLettersRedeliver `cmd:"" help:"Have edges send them once more."`
	Drop      DeadLettersDrop      `cmd:"" help:"Have edges forget them."`
}

// Examples returns the examples of the command's help.
func (*DeadLetters) Examples() string {
	return `
gw plugins dead-letters list
gw plugins dead-letters show 1f0c9a3be27d5c48
gw plugins dead-letters redeliver 1f0c9a3be27d5c48
gw plugins dead-letters drop --all --edge edge-1`
}

// DeadLettersList is "gw plugins dead-letters list".
type DeadLettersList struct {
	Plugin uint32 `placeholder:"ID" help:"Only for this plugin number."`
	Edge   string `placeholder:"ID" help:"Only of this edge."`
	Limit  int    `default:"100" help:"How many at most; 0: all."`
	Stale
	Output
	Hub Connection `embed:""`
}

// Examples returns the examples of the command's help.
func (*DeadLettersList) Examples() string {
	return "gw plugins dead-letters list\ngw plugins dead-letters list --plugin 7 -o json"
}

// Run lists dead letters.
func (d *DeadLettersList) Run(ctx context.Context, c *Context) error {
	if d.Limit < 0 {
		return usageError("--limit %d: want 0 or more", d.Limit)
	}
	h, err := d.openStale(c, &d.Hub)
	if err != nil {
		return err
	}
	letters, total, err := h.listDeadLetters(ctx, &gwv1.ListDeadLettersRequest{PluginId: d.Plugin, EdgeId: d.Edge}, d.Limit)
	if err != nil {
		return err
	}
	t := &table{headings: []string{"ID", "PLUGIN", "EDGE", "NAMESPACE", "STATE", "SENT", "BYTES", "CORRELATION", "WHY"}}
	err = list(&d.Output, c, letters, "There are no dead letters: every payload was handled, or still waits.", t, func(l *gwv1.DeadLetter) {
		t.add(l.GetId(), itoa(uint64(l.GetPluginId())), l.GetEdgeId(), l.GetNamespace(), letterCell(l), c.ago(l.GetSentAt()),
			itoa(uint64(l.GetSize())), l.GetCorrelationId(), l.GetMessage())
	})
	if err == nil && d.forPeople() && int(total) > len(letters) {
		c.say("%d of %d; for more: --limit 0", len(letters), total)
	}
	return err
}

// listDeadLetters returns dead letters of as many pages as limit needs; 0 is all.
func (h *hub) listDeadLetters(ctx context.Context, req *gwv1.ListDeadLettersRequest, limit int) (all []*gwv1.DeadLetter, total uint32, err error) {
	for {
		req.PageSize = 1000
		if limit > 0 {
			req.PageSize = uint32(min(1000, limit-len(all)))
		}
		res, err := h.plugins.ListDeadLetters(ctx, req)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, res.GetDeadLetters()...)
		if req.PageToken = res.GetNextPageToken(); req.PageToken == "" || limit > 0 && len(all) >= limit {
			return all, res.GetTotal(), nil
		}
	}
}

func letterCell(l *gwv1.DeadLetter) cell {
	switch l.GetState() {
	case gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD:
		return cell{"Held", yellow}
	case gwv1.DeadLetterState_DEAD_LETTER_STATE_REDELIVERING:
		return cell{"Redelivering", green}
	case gwv1.DeadLetterState_DEAD_LETTER_STATE_DROPPING:
		return cell{"Dropping", faint}
	case gwv1.DeadLetterState_DEAD_LETTER_STATE_GONE:
		return cell{"Gone", red}
	}
	return cell{word(l.GetState()), plainText}
}

// DeadLettersShow is "gw plugins dead-letters show".
type DeadLettersShow struct {
	ID string `arg:"" name:"id" help:"Dead letter to show."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*DeadLettersShow) Examples() string { return "gw plugins dead-letters show 1f0c9a3be27d5c48" }

// Run shows a dead letter.
func (d *DeadLettersShow) Run(ctx context.Context, c *Context) error {
	h, err := d.open(c)
	if err != nil {
		return err
	}
	res, err := h.plugins.GetDeadLetter(ctx, &gwv1.GetDeadLetterRequest{Id: d.ID})
	if err != nil {
		return err
	}
	l := res.GetDeadLetter()
	if !d.forPeople() {
		return d.one(c, l)
	}
	var b strings.Builder
	for _, line := range []struct{ what, text string }{
		{"Dead letter", l.GetId()}, {"State", letterCell(l).text}, {"Plugin", itoa(uint64(l.GetPluginId()))},
		{"Edge", l.GetEdgeId() + " (" + l.GetNamespace() + ")"}, {"Correlation ID", l.GetCorrelationId()}, {"Metadata", pairs(l.GetMetadata())},
		{"Size", itoa(uint64(l.GetSize())) + " bytes"}, {"Sent", stamp(l.GetSentAt())}, {"Put aside", stamp(l.GetAt())}, {"Why", l.GetMessage() + " (" + l.GetReason() + ")"},
	} {
		if line.text != "" {
			fmt.Fprintf(&b, "%-15s %s\n", line.what, strings.ReplaceAll(printable(line.text), "\n", " "))
		}
	}
	if _, err := fmt.Fprint(c.Stdout, b.String()); err != nil {
		return err
	}
	if l.GetState() == gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD {
		c.say("Its bytes are at the edge, for 7 days. Send them once more with: gw plugins dead-letters redeliver %s", l.GetId())
	}
	return nil
}

// letterChoice names dead letters: by their IDs, or all that match.
type letterChoice struct {
	IDs    []string `arg:"" name:"id" optional:"" help:"Dead letters."`
	All    bool     `help:"All there are, or all that --plugin and --edge select."`
	Plugin uint32   `placeholder:"ID" help:"With --all, only for this plugin number."`
	Edge   string   `placeholder:"ID" help:"With --all, only of this edge."`
}

// choose returns the IDs that are meant.
func (l *letterChoice) choose(ctx context.Context, h *hub, take func(*gwv1.DeadLetter) bool) ([]string, error) {
	switch {
	case !l.All && len(l.IDs) == 0:
		return nil, usageError("name dead letters by their IDs (gw plugins dead-letters list), or pass --all")
	case l.All && len(l.IDs) > 0:
		return nil, usageError("IDs and --all don't go together")
	case !l.All && (l.Plugin != 0 || l.Edge != ""):
		return nil, usageError("--plugin and --edge select with --all")
	case !l.All:
		return l.IDs, nil
	}
	letters, _, err := h.listDeadLetters(ctx, &gwv1.ListDeadLettersRequest{PluginId: l.Plugin, EdgeId: l.Edge}, 0)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, d := range letters {
		if take(d) {
			ids = append(ids, d.GetId())
		}
	}
	return ids, nil
}

// lettersPerCall bounds the IDs in one call.
const lettersPerCall = 1000

// inParts calls f with up to lettersPerCall IDs at a time.
func inParts(ids []string, f func(ids []string) error) error {
	for len(ids) > 0 {
		part := ids[:min(len(ids), lettersPerCall)]
		ids = ids[len(part):]
		if err := f(part); err != nil {
			return err
		}
	}
	return nil
}

// DeadLettersRedeliver is "gw plugins dead-letters redeliver".
type DeadLettersRedeliver struct {
	letterChoice `embed:""`
	Connection
}

// Examples returns the examples of the command's help.
func (*DeadLettersRedeliver) Examples() string {
	return "gw plugins dead-letters redeliver 1f0c9a3be27d5c48\ngw plugins dead-letters redeliver --all --plugin 7"
}

// Run orders dead letters to be sent again.
func (d *DeadLettersRedeliver) Run(ctx context.Context, c *Context) error {
	h, err := d.open(c)
	if err != nil {
		return err
	}
	ids, err := d.choose(ctx, h, func(l *gwv1.DeadLetter) bool { return l.GetState() == gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD })
	if err != nil {
		return err
	}
	err = inParts(ids, func(ids []string) error {
		_, err := h.plugins.RedeliverDeadLetters(ctx, &gwv1.RedeliverDeadLettersRequest{Ids: ids})
		return err
	})
	if err == nil {
		c.say("%d dead letters will be sent once more, each with the next heartbeat of its edge (every 30 s by default).", len(ids))
	}
	return err
}

// DeadLettersDrop is "gw plugins dead-letters drop".
type DeadLettersDrop struct {
	letterChoice `embed:""`
	Yes          bool `short:"y" env:"-" help:"Don't ask."`
	Connection
}

// Examples returns the examples of the command's help.
func (*DeadLettersDrop) Examples() string {
	return "gw plugins dead-letters drop 1f0c9a3be27d5c48\ngw plugins dead-letters drop --all --edge edge-1 --yes"
}

// Run orders dead letters to be forgotten, after asking.
func (d *DeadLettersDrop) Run(ctx context.Context, c *Context) error {
	h, err := d.open(c)
	if err != nil {
		return err
	}
	ids, err := d.choose(ctx, h, func(l *gwv1.DeadLetter) bool { return l.GetState() != gwv1.DeadLetterState_DEAD_LETTER_STATE_DROPPING })
	if err != nil {
		return err
	}
	if len(ids) > 0 && !d.Yes {
		if err := c.confirm(ctx, fmt.Sprintf("Drop %d dead letters (what is in them is lost)", len(ids)), "--yes"); err != nil {
			return err
		}
	}
	err = inParts(ids, func(ids []string) error {
		_, err := h.plugins.DropDeadLetters(ctx, &gwv1.DropDeadLettersRequest{Ids: ids})
		return err
	})
	if err == nil {
		c.say("%d dead letters are dropped, each with the next heartbeat of its edge.", len(ids))
	}
	return err
}
