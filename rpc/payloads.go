package rpc

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

const (
	maxBatchBytes = 4 << 20
	// maxOrders bounds the orders about dead letters in one answer.
	maxOrders = 200
)

// SendPluginControlBatch brings payloads to the hub plugins with the IDs of those that sent them.
func (s *EdgeServer) SendPluginControlBatch(ctx context.Context, r *gwv1.SendPluginControlBatchRequest) (*gwv1.SendPluginControlBatchResponse, error) {
	who, err := s.edgeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkBatch(r.Payloads); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	if len(r.Answers) > 0 {
		if st, err = s.resolveDeadLetters(ctx, who, st, r.Answers); err != nil {
			return nil, err
		}
	}
	answer := &gwv1.SendPluginControlBatchResponse{Outcomes: s.deliverAll(ctx, who, r.Payloads)}
	st = s.newest(st)
	for _, m := range r.Marks {
		answer.Marks = append(answer.Marks, &gwv1.PluginMark{StoreId: m.StoreId, PluginId: m.PluginId, Sequence: st.PluginMark(m.StoreId, m.PluginId)})
	}
	for d := range st.DeadLetterOrders(who.ID) {
		o := &gwv1.DeadLetterOrder{Id: d.Id, Action: gwv1.DeadLetterAction_DEAD_LETTER_ACTION_DROP}
		if d.State == state.DeadLetterRedelivering {
			o.Action = gwv1.DeadLetterAction_DEAD_LETTER_ACTION_REDELIVER
		}
		if answer.Orders = append(answer.Orders, o); len(answer.Orders) == maxOrders {
			break
		}
	}
	return answer, nil
}

// newest is the state applied here, or st if that is newer.
func (k *core) newest(st *state.State) *state.State {
	if now := k.store.State(); now.Index() > st.Index() {
		return now
	}
	return st
}

// checkBatch refuses what no edge of ours sends.
func checkBatch(payloads []*gwv1.PluginPayload) error {
	size := 0
	last := map[markName]uint64{}
	for at, p := range payloads {
		size += proto.Size(p)
		n := markName{string(p.StoreId), p.PluginId}
		if p.Sequence <= last[n] {
			return invalid(fmt.Sprintf("payloads[%d].sequence", at), ReasonInvalid, "%d is not after %d", p.Sequence, last[n])
		}
		last[n] = p.Sequence
	}
	if size > maxBatchBytes {
		return &Error{Reason: ReasonTooLarge, Message: fmt.Sprintf("a batch may have %d bytes, this one has %d", maxBatchBytes, size)}
	}
	return nil
}

// deliverAll gives every plugin its payloads, all plugins at the same time, and returns the outcomes in the order of the
// payloads.
func (s *EdgeServer) deliverAll(ctx context.Context, who caller, payloads []*gwv1.PluginPayload) []*gwv1.PayloadOutcome {
	jobs := map[uint32]*job{}
	places := map[uint32][]int{} // plugin → where its payloads stand in the batch
	for at, p := range payloads {
		j := jobs[p.PluginId]
		if j == nil {
			j = &job{edge: who, until: s.now().Add(deliverFor)}
			jobs[p.PluginId] = j
		}
		j.payloads = append(j.payloads, p)
		places[p.PluginId] = append(places[p.PluginId], at)
	}
	var wg sync.WaitGroup
	for plugin, j := range jobs {
		wg.Go(func() { s.delivery.deliver(ctx, plugin, j) })
	}
	wg.Wait()
	outcomes := make([]*gwv1.PayloadOutcome, len(payloads))
	for plugin, j := range jobs {
		for n, at := range places[plugin] {
			outcomes[at] = j.outcomes[n]
		}
	}
	return outcomes
}

// resolveDeadLetters takes what an edge says became of dead letters, as far as it is news.
func (s *EdgeServer) resolveDeadLetters(ctx context.Context, who caller, st *state.State, answers []*gwv1.DeadLetterAnswer) (*state.State, error) {
	m := &gwv1.ResolveDeadLetters{EdgeId: who.ID}
	for _, a := range answers {
		d, ok := st.DeadLetter(a.Id)
		switch {
		case !ok || d.EdgeId != who.ID || a.Gone && d.State == state.DeadLetterGone:
		case a.Gone:
			m.Gone = append(m.Gone, a.Id)
		default:
			m.Done = append(m.Done, a.Id)
		}
	}
	if len(m.Gone)+len(m.Done) == 0 {
		return st, nil
	}
	ctx = WithPrincipal(ctx, Principal{User: "edge/" + who.ID, Address: who.address})
	if _, err := s.propose(ctx, &gwv1.Command{Body: &gwv1.Command_ResolveDeadLetters{ResolveDeadLetters: m}}); err != nil {
		return nil, fmt.Errorf("record what became of %d dead letters: %w", len(answers), err)
	}
	return s.newest(st), nil
}
