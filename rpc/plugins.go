package rpc

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"gw/node/fleet"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// PluginServer shows plugins, what hub plugins keep, and the payloads that nobody took.
type PluginServer struct{ *core }

// pluginName tells plugins apart: an edge plugin and a hub plugin may carry one ID, and namespaces their own edge plugins.
type pluginName struct {
	id        uint32
	kind      string
	namespace string
	name      string
}

// Types of plugins.
const (
	typeEdge = "edge"
	typeHub  = "hub"
)

// pluginList is what ListPlugins gathers from the configuration, the edges and the hubs.
type pluginList struct {
	infos map[pluginName]*gwv1.PluginInfo
}

func (l *pluginList) of(n pluginName) *gwv1.PluginInfo {
	i := l.infos[n]
	if i == nil {
		i = &gwv1.PluginInfo{Id: n.id, Type: n.kind, Name: n.name, Namespace: n.namespace}
		l.infos[n] = i
	}
	return i
}

// ListPlugins returns every plugin that is configured, runs somewhere or has payloads, sorted by ID and type.
func (s *PluginServer) ListPlugins(ctx context.Context, r *gwv1.ListPluginsRequest) (*gwv1.ListPluginsResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	if r.Namespace != "" && !p.sees(r.Namespace) {
		_, err := allow(ctx, RoleViewer, r.Namespace)
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	shown := func(namespace string) bool {
		return p.sees(namespace) && (r.Namespace == "" || serves(r.Namespace, namespace))
	}
	l := &pluginList{infos: map[pluginName]*gwv1.PluginInfo{}}
	l.addConfigured(st, shown)
	l.addEdges(st, s.fleet.All(), shown)
	for _, d := range s.describeMembers(ctx) {
		l.addHub(d)
	}
	l.addTallies(st, shown, len(p.Namespaces) == 0)
	answer := &gwv1.ListPluginsResponse{}
	for _, i := range l.infos {
		slices.SortFunc(i.Places, func(a, b *gwv1.PluginPlace) int {
			return cmp.Or(cmp.Compare(a.HubId, b.HubId), cmp.Compare(a.EdgeId, b.EdgeId))
		})
		answer.Plugins = append(answer.Plugins, i)
	}
	slices.SortFunc(answer.Plugins, func(a, b *gwv1.PluginInfo) int {
		return cmp.Or(cmp.Compare(a.Id, b.Id), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return answer, nil
}

// describeMembers asks every hub; one that can't be asked is left out, and shown by the cluster's status.
func (k *core) describeMembers(ctx context.Context) (answered []described) {
	members, err := k.store.Members()
	if err != nil {
		return nil
	}
	for _, d := range k.describeAll(ctx, members) {
		if d.DescribeResponse != nil {
			answered = append(answered, d)
		}
	}
	return answered
}

// addEdges takes what edges said of their plugins and queues.
func (l *pluginList) addEdges(st *state.State, live map[string]*fleet.Live, shown func(namespace string) bool) {
	for id, e := range live {
		if e.Heartbeat == nil || !shown(e.Namespace) {
			continue
		}
		places := map[uint32]*gwv1.PluginPlace{}
		at := func(plugin uint32, name string) *gwv1.PluginPlace {
			place := places[plugin]
			if place == nil {
				place = &gwv1.PluginPlace{EdgeId: id, Namespace: e.Namespace, HeardAt: stamp(e.HeardAt.UnixNano())}
				places[plugin] = place
				info := l.of(l.edgePlugin(e.Namespace, plugin, name))
				info.Places = append(info.Places, place)
			}
			return place
		}
		for _, p := range e.Heartbeat.Plugins {
			at(p.Id, p.Name).Process = p
		}
		for _, q := range e.Heartbeat.Queues {
			at(q.PluginId, "").Queue = q
		}
	}
}

// edgePlugin finds the configured plugin an edge speaks of; that of its own namespace goes before the global one.
func (l *pluginList) edgePlugin(namespace string, id uint32, name string) pluginName {
	best := pluginName{id: id, kind: typeEdge, namespace: namespace, name: name}
	for n := range l.infos {
		if n.id != id || n.kind != typeEdge || !serves(namespace, n.namespace) || name != "" && n.name != name {
			continue
		}
		if n.namespace == namespace {
			return n
		}
		best = n
	}
	return best
}

// addHub takes what a hub says of the plugins it would run, or runs.
func (l *pluginList) addHub(d described) {
	for _, p := range d.Plugins {
		info := l.of(pluginName{id: p.Id, kind: typeHub, namespace: resource.Global, name: p.Name})
		info.Places = append(info.Places, &gwv1.PluginPlace{HubId: d.ID, Namespace: resource.Global, Process: p})
	}
}

// addTallies takes what the state keeps by plugin ID. A hub plugin serves every namespace, so what it keeps and what it said
// last is shown only to who may see them all.
func (l *pluginList) addTallies(st *state.State, shown func(namespace string) bool, all bool) {
	hub := func(id uint32) *gwv1.PluginInfo {
		for n, i := range l.infos {
			if n.id == id && n.kind == typeHub {
				return i
			}
		}
		return l.of(pluginName{id: id, kind: typeHub, namespace: resource.Global})
	}
	for d := range st.DeadLetters() {
		if shown(d.Namespace) {
			hub(d.PluginId).DeadLetters++
		}
	}
	if !all {
		return
	}
	for t := range st.PluginTallies() {
		i := hub(t.PluginId)
		i.PayloadsSettled, i.PayloadErrors, i.LastError, i.LastErrorAt = t.Handled, t.Errors, t.LastError, stamp(t.LastErrorAt)
	}
	for size := range st.PluginKVSizes() {
		i := hub(size.PluginId)
		i.KvKeys, i.KvBytes = size.Keys, size.Bytes
	}
}

// ListPluginKV returns a page of the keys of a hub plugin, sorted, without their values. What it keeps may be from every
// namespace, so only who may read every namespace may read it.
func (s *PluginServer) ListPluginKV(ctx context.Context, r *gwv1.ListPluginKVRequest) (*gwv1.ListPluginKVResponse, error) {
	if _, err := admit(ctx, r, RoleViewer, ""); err != nil {
		return nil, err
	}
	after, err := base64.RawURLEncoding.DecodeString(r.PageToken)
	if err != nil {
		return nil, invalid("page_token", ReasonInvalid, "is not one that a list returned")
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(int(r.PageSize), defaultPage)
	size := st.PluginKVSize(r.PluginId)
	answer := &gwv1.ListPluginKVResponse{Keys: size.Keys, Bytes: size.Bytes}
	for kv := range st.PluginKVs(r.PluginId, r.Prefix, s.now().UnixNano()) {
		if kv.Key <= string(after) {
			continue
		}
		if len(answer.Entries) == limit {
			answer.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(answer.Entries[limit-1].Key))
			break
		}
		answer.Entries = append(answer.Entries, shownKV(kv))
	}
	return answer, nil
}

func shownKV(r *gwv1.PluginKVRecord) *gwv1.PluginKVEntry {
	return &gwv1.PluginKVEntry{Key: r.Key, Size: uint32(len(r.Value)), ExpiresAt: stamp(r.ExpiresAt), UpdatedAt: stamp(r.UpdatedAt)}
}

// GetPluginKV returns one value of a hub plugin.
func (s *PluginServer) GetPluginKV(ctx context.Context, r *gwv1.GetPluginKVRequest) (*gwv1.GetPluginKVResponse, error) {
	if _, err := admit(ctx, r, RoleViewer, ""); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	kv, ok := st.PluginKV(r.PluginId, r.Key, s.now().UnixNano())
	if !ok {
		return nil, notFound("key", r.Key)
	}
	entry := shownKV(kv)
	entry.Value = kv.Value
	return &gwv1.GetPluginKVResponse{Entry: entry}, nil
}

// ListDeadLetters returns a page of the payloads that nobody took, newest first.
func (s *PluginServer) ListDeadLetters(ctx context.Context, r *gwv1.ListDeadLettersRequest) (*gwv1.ListDeadLettersResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(int(r.PageSize), defaultPage)
	answer := &gwv1.ListDeadLettersResponse{}
	skipping := r.PageToken != ""
	for d := range st.DeadLetters() {
		if r.PluginId != 0 && d.PluginId != r.PluginId || r.EdgeId != "" && d.EdgeId != r.EdgeId || !p.sees(d.Namespace) {
			continue
		}
		answer.Total++
		switch {
		case skipping:
			skipping = d.Id != r.PageToken
		case len(answer.DeadLetters) < limit:
			answer.DeadLetters = append(answer.DeadLetters, shownDeadLetter(d))
		default:
			answer.NextPageToken = answer.DeadLetters[limit-1].Id
		}
	}
	if skipping {
		return nil, invalid("page_token", ReasonInvalid, "the dead letter it stands for is gone: list from the beginning")
	}
	return answer, nil
}

// GetDeadLetter returns one payload that nobody took.
func (s *PluginServer) GetDeadLetter(ctx context.Context, r *gwv1.GetDeadLetterRequest) (*gwv1.GetDeadLetterResponse, error) {
	p, err := admit(ctx, r, RoleViewer)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	d, ok := st.DeadLetter(r.Id)
	if !ok || !p.sees(d.Namespace) {
		return nil, notFound("dead letter", r.Id)
	}
	return &gwv1.GetDeadLetterResponse{DeadLetter: shownDeadLetter(d)}, nil
}

// deadLetterStates are those of the state, as they are shown.
var deadLetterStates = map[string]gwv1.DeadLetterState{
	state.DeadLetterHeld:         gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD,
	state.DeadLetterRedelivering: gwv1.DeadLetterState_DEAD_LETTER_STATE_REDELIVERING,
	state.DeadLetterDropping:     gwv1.DeadLetterState_DEAD_LETTER_STATE_DROPPING,
	state.DeadLetterGone:         gwv1.DeadLetterState_DEAD_LETTER_STATE_GONE,
}

func shownDeadLetter(d *gwv1.DeadLetterRecord) *gwv1.DeadLetter {
	return &gwv1.DeadLetter{
		Id: d.Id, State: deadLetterStates[d.State], PluginId: d.PluginId, EdgeId: d.EdgeId, Namespace: d.Namespace,
		CorrelationId: d.CorrelationId, Metadata: d.Metadata, Size: d.Size, Reason: d.Reason, Message: d.Message,
		SentAt: stamp(d.SentAt), At: stamp(d.At),
	}
}

// RedeliverDeadLetters has edges send payloads once more.
func (s *PluginServer) RedeliverDeadLetters(ctx context.Context, r *gwv1.RedeliverDeadLettersRequest) (*gwv1.RedeliverDeadLettersResponse, error) {
	if err := s.orderDeadLetters(ctx, r, r.Ids, true); err != nil {
		return nil, err
	}
	return &gwv1.RedeliverDeadLettersResponse{Ordered: uint32(len(r.Ids))}, nil
}

// DropDeadLetters has edges forget payloads.
func (s *PluginServer) DropDeadLetters(ctx context.Context, r *gwv1.DropDeadLettersRequest) (*gwv1.DropDeadLettersResponse, error) {
	if err := s.orderDeadLetters(ctx, r, r.Ids, false); err != nil {
		return nil, err
	}
	return &gwv1.DropDeadLettersResponse{Ordered: uint32(len(r.Ids))}, nil
}

func (s *PluginServer) orderDeadLetters(ctx context.Context, r proto.Message, ids []string, redeliver bool) error {
	if _, err := admit(ctx, r, RoleOperator); err != nil {
		return err
	}
	st, err := s.read(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		d, ok := st.DeadLetter(id)
		if !ok {
			continue // the state says so, unless the call is a repetition
		}
		if _, err := allow(ctx, RoleOperator, d.Namespace); err != nil {
			return err
		}
	}
	_, err = s.change(ctx, &gwv1.Command{Body: &gwv1.Command_OrderDeadLetters{OrderDeadLetters: &gwv1.OrderDeadLetters{Ids: ids, Redeliver: redeliver}}})
	return err
}

// addConfigured takes the plugins of the working configuration.
func (l *pluginList) addConfigured(st *state.State, shown func(namespace string) bool) {
	for _, namespace := range append(st.Namespaces(), resource.Global) {
		if !shown(namespace) {
			continue
		}
		for r := range st.ResourcesOf("Plugin", namespace) {
			m, err := resource.Decode(r.Kind, r.Name, r.Spec)
			spec, ok := m.(*gwv1.PluginSpec)
			if err != nil || !ok {
				continue // made by a newer version, which shows it
			}
			n := pluginName{id: spec.Id, kind: typeEdge, namespace: namespace, name: r.Name}
			if spec.Type == gwv1.PluginType_PLUGIN_TYPE_HUB {
				n.kind = typeHub
			}
			i := l.of(n)
			i.Configured, i.Command = true, spec.Command
			for _, h := range spec.Hooks {
				i.Hooks = append(i.Hooks, strings.ToLower(strings.TrimPrefix(h.String(), "HOOK_")))
			}
		}
	}
}
