package ui

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/ui/page"
)

// Plugins shows plugins and the payloads that nobody took. Calls are made with a context from Config.Principal; errors are
// *connect.Error.
type Plugins interface {
	ListPlugins(context.Context, *gwv1.ListPluginsRequest) (*gwv1.ListPluginsResponse, error)
	ListDeadLetters(context.Context, *gwv1.ListDeadLettersRequest) (*gwv1.ListDeadLettersResponse, error)
	RedeliverDeadLetters(context.Context, *gwv1.RedeliverDeadLettersRequest) (*gwv1.RedeliverDeadLettersResponse, error)
	DropDeadLetters(context.Context, *gwv1.DropDeadLettersRequest) (*gwv1.DropDeadLettersResponse, error)
}

// plugins shows every plugin, wherever it runs, and the newest dead letters.
func (k *console) plugins(w http.ResponseWriter, r *http.Request, v *visitor) error {
	got, err := call(k, v.ctx, k.Plugins.ListPlugins, &gwv1.ListPluginsRequest{})
	if err != nil {
		return err
	}
	letters, err := call(k, v.ctx, k.Plugins.ListDeadLetters, &gwv1.ListDeadLettersRequest{PageSize: perPage})
	if err != nil {
		return err
	}
	p := page.Plugins{Shell: k.shell(v, "Plugins", "/plugins"), Total: letters.GetTotal(), CanOperate: v.mayPush(), Now: k.Now()}
	for _, i := range got.GetPlugins() {
		p.Rows = append(p.Rows, pluginRows(i)...)
	}
	for _, d := range letters.GetDeadLetters() {
		p.Letters = append(p.Letters, letterRow(d))
	}
	return send(w, r, http.StatusOK, page.PluginsPage(p))
}

// pluginRows is a row for each place of a plugin; one that is nowhere has one, too.
func pluginRows(i *gwv1.PluginInfo) (rows []page.PluginRow) {
	base := page.PluginRow{ID: strconv.FormatUint(uint64(i.GetId()), 10), Type: i.GetType(), Name: i.GetName(), Reason: i.GetLastError()}
	if base.Name == "" {
		base.Name = "not configured"
	}
	if i.GetType() == "hub" {
		base.KV = fmt.Sprintf("%d keys", i.GetKvKeys())
	}
	if len(i.GetPlaces()) == 0 {
		base.State = page.State{Axis: "State", Class: "st-unknown", Word: "Nowhere"}
		return []page.PluginRow{base}
	}
	for _, at := range i.GetPlaces() {
		row := base
		row.Place = "hub " + at.GetHubId()[:min(8, len(at.GetHubId()))]
		if at.GetEdgeId() != "" {
			row.Place, row.URL = at.GetEdgeId(), edgeAddress(at.GetEdgeId())
		}
		p, q := at.GetProcess(), at.GetQueue()
		row.State = pluginState(p.GetState())
		if p != nil {
			row.Restarts = strconv.FormatUint(p.GetRestarts(), 10)
		}
		if p.GetP50() != nil {
			row.P50, row.P99 = shortTime(p.GetP50().AsDuration()), shortTime(p.GetP99().AsDuration())
		}
		if q != nil {
			row.Queue, row.Lost, row.Oldest = strconv.FormatUint(q.GetPending(), 10), lost(q), when(q.GetOldest())
		}
		for _, why := range []string{q.GetHalted(), p.GetReason()} {
			if why != "" {
				row.Reason = why
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func pluginState(s gwv1.PluginState) page.State {
	shown := page.State{Axis: "State", Class: "st-unknown", Word: "Not told"}
	switch s {
	case gwv1.PluginState_PLUGIN_STATE_RUNNING:
		shown.Class, shown.Word = "st-ok", "Running"
	case gwv1.PluginState_PLUGIN_STATE_STARTING:
		shown.Class, shown.Word = "st-pending", "Starting"
	case gwv1.PluginState_PLUGIN_STATE_BACKOFF:
		shown.Class, shown.Word = "st-failed", "Restarting"
	case gwv1.PluginState_PLUGIN_STATE_FAILED:
		shown.Class, shown.Word = "st-failed", "Failed"
	case gwv1.PluginState_PLUGIN_STATE_STOPPED:
		shown.Word = "Stopped"
	case gwv1.PluginState_PLUGIN_STATE_STANDBY:
		shown.Word = "Standby"
	}
	return shown
}

func lost(q *gwv1.PluginQueue) string {
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

func shortTime(d time.Duration) string {
	if d < time.Millisecond {
		return d.Round(time.Microsecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

// letterStates are the words for what becomes of a dead letter.
var letterStates = map[gwv1.DeadLetterState]string{
	gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD:         "Held at the edge",
	gwv1.DeadLetterState_DEAD_LETTER_STATE_REDELIVERING: "To be sent again",
	gwv1.DeadLetterState_DEAD_LETTER_STATE_DROPPING:     "To be dropped",
	gwv1.DeadLetterState_DEAD_LETTER_STATE_GONE:         "Gone",
}

func letterRow(d *gwv1.DeadLetter) page.LetterRow {
	return page.LetterRow{
		ID: d.GetId(), Plugin: strconv.FormatUint(uint64(d.GetPluginId()), 10), Edge: d.GetEdgeId(), EdgeURL: edgeAddress(d.GetEdgeId()), Namespace: d.GetNamespace(),
		State: letterStates[d.GetState()], Correlation: d.GetCorrelationId(), Size: fmt.Sprintf("%d B", d.GetSize()), Reason: d.GetMessage(), Sent: when(d.GetSentAt()),
		Held: d.GetState() == gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD, Gone: d.GetState() == gwv1.DeadLetterState_DEAD_LETTER_STATE_GONE,
	}
}

// deadLetter orders one to be sent again or to be dropped.
func (k *console) deadLetter(w http.ResponseWriter, r *http.Request, v *visitor) error {
	if err := r.ParseForm(); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	ids := []string{r.PostFormValue("id")}
	var err error
	switch r.PostFormValue("do") {
	case "redeliver":
		_, err = call(k, v.ctx, k.Plugins.RedeliverDeadLetters, &gwv1.RedeliverDeadLettersRequest{Ids: ids})
	case "drop":
		_, err = call(k, v.ctx, k.Plugins.DropDeadLetters, &gwv1.DropDeadLettersRequest{Ids: ids})
	default:
		err = connect.NewError(connect.CodeInvalidArgument, errors.New("a dead letter is redelivered or dropped"))
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/plugins#dead-letters", http.StatusSeeOther)
	return nil
}
