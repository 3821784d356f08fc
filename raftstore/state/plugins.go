package state

import (
	"fmt"
	"iter"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// What hub plugins may keep, and for how long what edges sent them is remembered.
const (
	// MaxPluginKey and MaxPluginValue bound one key and its value, in bytes.
	MaxPluginKey   = 512
	MaxPluginValue = 64 << 10
	// MaxPluginCommit bounds what one payload may write, keys and values together, in bytes.
	MaxPluginCommit = 512 << 10
	// MaxPluginKV and MaxPluginKeys bound what one plugin keeps, keys and values together, in bytes.
	MaxPluginKV   = 16 << 20
	MaxPluginKeys = 100_000
	// maxPluginKVTotal bounds all of them.
	maxPluginKVTotal = 64 << 20
	// keepMarks is how long the watermark of a store that sends nothing is kept. An edge drops payloads after a day, and
	// dead letters come back under numbers of their own, so nothing that was sent before can come again by then.
	keepMarks = 30 * 24 * time.Hour
	// keepDeadLetters is longer than edges keep the bytes, so that a record outlives what it speaks of.
	keepDeadLetters = 8 * 24 * time.Hour
	maxDeadLetters  = 10_000
	// maxForgotten bounds what one command drops of these for their age; one forgetEvery later goes on.
	maxForgotten = 1000
	// maxDeadLetterMetadata bounds the metadata a record keeps of a payload, in bytes.
	maxDeadLetterMetadata = 1 << 10
)

// States of a dead letter.
const (
	DeadLetterHeld         = "held"
	DeadLetterRedelivering = "redelivering"
	DeadLetterDropping     = "dropping"
	DeadLetterGone         = "gone"
)

func pluginKey(id uint32) []byte { return number(uint64(id)) }

func pluginKVKey(plugin uint32, key string) []byte { return append(pluginKey(plugin), key...) }

func markKey(store []byte, plugin uint32) []byte { return append(pluginKey(plugin), store...) }

// expiryOfKV makes keys that never expire no part of the index.
func expiryOfKV(r *gwv1.PluginKVRecord) [][]byte {
	if r.ExpiresAt == 0 {
		return nil
	}
	return [][]byte{append(timeKey(r.ExpiresAt), pluginKVKey(r.PluginId, r.Key)...)}
}

// orderedEdge makes dead letters with an order found by their edge.
func orderedEdge(r *gwv1.DeadLetterRecord) [][]byte {
	if r.State != DeadLetterRedelivering && r.State != DeadLetterDropping {
		return nil
	}
	return [][]byte{append(terminated(r.EdgeId), r.Id...)}
}

// PluginKV returns a key of a hub plugin, unless it has expired at a time, Unix nanoseconds.
func (s *State) PluginKV(plugin uint32, key string, at int64) (*gwv1.PluginKVRecord, bool) {
	r, ok := one[*gwv1.PluginKVRecord](s.db.Txn(false), tablePluginKV, byID, pluginKVKey(plugin, key))
	return r, ok && !expired(r, at)
}

func expired(r *gwv1.PluginKVRecord, at int64) bool { return r.ExpiresAt != 0 && r.ExpiresAt <= at }

// PluginKVs are the keys of a hub plugin that begin with prefix and have not expired at a time, sorted.
func (s *State) PluginKVs(plugin uint32, prefix string, at int64) iter.Seq[*gwv1.PluginKVRecord] {
	return func(yield func(*gwv1.PluginKVRecord) bool) {
		for r := range list[*gwv1.PluginKVRecord](s.db.Txn(false), tablePluginKV, byID, pluginKVKey(plugin, prefix)) {
			if !expired(r, at) && !yield(r) {
				return
			}
		}
	}
}

// PluginKVSize is how much a hub plugin keeps; never nil.
func (s *State) PluginKVSize(plugin uint32) *gwv1.PluginKVSizeRecord {
	if r, ok := one[*gwv1.PluginKVSizeRecord](s.db.Txn(false), tablePluginSizes, byID, pluginKey(plugin)); ok {
		return r
	}
	return &gwv1.PluginKVSizeRecord{PluginId: plugin}
}

// PluginKVSizes are those of every plugin that keeps something, by ID.
func (s *State) PluginKVSizes() iter.Seq[*gwv1.PluginKVSizeRecord] {
	return list[*gwv1.PluginKVSizeRecord](s.db.Txn(false), tablePluginSizes, byID, nil)
}

// PluginMark is the last number that is settled of a store and plugin; 0 if none.
func (s *State) PluginMark(store []byte, plugin uint32) uint64 {
	r, _ := one[*gwv1.PluginMarkRecord](s.db.Txn(false), tablePluginMarks, byID, markKey(store, plugin))
	return r.GetSequence()
}

// PluginTallies count what became of payloads, by plugin ID.
func (s *State) PluginTallies() iter.Seq[*gwv1.PluginTallyRecord] {
	return list[*gwv1.PluginTallyRecord](s.db.Txn(false), tablePluginTallies, byID, nil)
}

// DeadLetter returns a payload that nobody took.
func (s *State) DeadLetter(id string) (*gwv1.DeadLetterRecord, bool) {
	return one[*gwv1.DeadLetterRecord](s.db.Txn(false), tableDeadLetters, byID, []byte(id))
}

// DeadLetters are all payloads that nobody took, newest first.
func (s *State) DeadLetters() iter.Seq[*gwv1.DeadLetterRecord] {
	return reversed[*gwv1.DeadLetterRecord](s.db.Txn(false), tableDeadLetters, byTime, nil)
}

// DeadLetterOrders are those an edge has to do something about, sorted by ID.
func (s *State) DeadLetterOrders(edge string) iter.Seq[*gwv1.DeadLetterRecord] {
	return list[*gwv1.DeadLetterRecord](s.db.Txn(false), tableDeadLetters, byEdge, terminated(edge))
}

// settlePayloads moves watermarks and commits what the receivers wrote. Because it compares what they were decided by,
// the outcome of a payload takes effect once, however often it is proposed. A dead letter whose edge turns out to have the
// bytes after all comes without a watermark.
func (x *change) settlePayloads(m *gwv1.SettlePayloads) *gwv1.Refusal {
	if len(m.GetMarks())+len(m.GetDeadLetters()) == 0 {
		return invalid("no watermark")
	}
	moved := func(what string) *gwv1.Refusal {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_CHANGED, "changed", what+" has changed since the payloads were delivered")
	}
	for _, mark := range m.Marks {
		if p := settledMarkProblem(mark); p != "" {
			return invalid(p)
		}
		old, _ := one[*gwv1.PluginMarkRecord](x.tx, tablePluginMarks, byID, markKey(mark.StoreId, mark.PluginId))
		if old.GetSequence() != mark.After {
			return moved("the watermark")
		}
		x.put(tablePluginMarks, &gwv1.PluginMarkRecord{
			StoreId: mark.StoreId, PluginId: mark.PluginId, EdgeId: mark.EdgeId, Namespace: mark.Namespace, Sequence: mark.Sequence, At: x.at,
		})
		x.tally(mark)
	}
	for _, r := range m.Reads {
		if x.kvVersion(r.GetPluginId(), r.GetKey()) != r.GetVersion() {
			return moved("a key that a plugin read")
		}
	}
	if r := x.writeKV(m.Writes); r != nil {
		return r
	}
	for _, d := range m.DeadLetters {
		if p := validDeadLetter(d); p != "" {
			return invalid(p)
		}
		if d.State != DeadLetterHeld {
			return invalid("a dead letter begins as held")
		}
		x.addDeadLetter(d)
	}
	return nil
}

func (x *change) tally(mark *gwv1.SettledMark) {
	t := &gwv1.PluginTallyRecord{PluginId: mark.PluginId}
	if old, ok := one[*gwv1.PluginTallyRecord](x.tx, tablePluginTallies, byID, pluginKey(mark.PluginId)); ok {
		t = proto.CloneOf(old)
	}
	t.Handled += mark.Handled
	t.Errors += mark.Errors
	t.DeadLetters += mark.DeadLetters
	if mark.LastError != "" {
		t.LastError, t.LastErrorAt = mark.LastError, x.at
	}
	x.put(tablePluginTallies, t)
}

// kvVersion is 0 for a key that is not there or has expired.
func (x *change) kvVersion(plugin uint32, key string) uint64 {
	r, ok := one[*gwv1.PluginKVRecord](x.tx, tablePluginKV, byID, pluginKVKey(plugin, key))
	if !ok || expired(r, x.at) {
		return 0
	}
	return r.Version
}

func (x *change) changePluginKV(m *gwv1.ChangePluginKV) *gwv1.Refusal {
	if len(m.GetWrites()) == 0 {
		return invalid("nothing to write")
	}
	return x.writeKV(m.Writes)
}

// writeKV applies writes in their order.
func (x *change) writeKV(writes []*gwv1.PluginKVWrite) *gwv1.Refusal {
	for _, w := range writes {
		r := &gwv1.PluginKVRecord{PluginId: w.GetPluginId(), Key: w.GetKey(), Value: w.GetValue(), ExpiresAt: w.GetExpiresAt(), Version: x.index, UpdatedAt: x.at}
		if p := validPluginKV(r); p != "" {
			return invalid(p)
		}
		if old, ok := one[*gwv1.PluginKVRecord](x.tx, tablePluginKV, byID, pluginKVKey(r.PluginId, r.Key)); ok {
			x.dropKV(old)
		}
		if w.Delete || expired(r, x.at) {
			continue
		}
		if r := x.addKV(r); r != nil {
			return r
		}
	}
	return nil
}

func (x *change) addKV(r *gwv1.PluginKVRecord) *gwv1.Refusal {
	size := x.kvSize(r.PluginId)
	size.Keys++
	size.Bytes += kvBytes(r)
	x.totals.pluginKVBytes += int(kvBytes(r))
	if size.Keys > MaxPluginKeys || size.Bytes > MaxPluginKV {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_TOO_LARGE, "too_large", fmt.Sprintf("plugin %d would keep %d keys and %d bytes: it may keep %d keys and %d bytes",
			r.PluginId, size.Keys, size.Bytes, MaxPluginKeys, MaxPluginKV))
	}
	if x.totals.pluginKVBytes > maxPluginKVTotal {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_TOO_LARGE, "too_large", fmt.Sprintf("hub plugins keep %d bytes together, which is all there is room for", maxPluginKVTotal))
	}
	x.put(tablePluginKV, r)
	x.put(tablePluginSizes, size)
	return nil
}

// kvSize returns a copy that may be changed.
func (x *change) kvSize(plugin uint32) *gwv1.PluginKVSizeRecord {
	if old, ok := one[*gwv1.PluginKVSizeRecord](x.tx, tablePluginSizes, byID, pluginKey(plugin)); ok {
		return proto.CloneOf(old)
	}
	return &gwv1.PluginKVSizeRecord{PluginId: plugin}
}

func (x *change) dropKV(r *gwv1.PluginKVRecord) {
	x.drop(tablePluginKV, r)
	x.totals.pluginKVBytes -= int(kvBytes(r))
	size := x.kvSize(r.PluginId)
	if size.Keys <= 1 {
		x.drop(tablePluginSizes, size)
		return
	}
	size.Keys--
	size.Bytes -= kvBytes(r)
	x.put(tablePluginSizes, size)
}

func kvBytes(r *gwv1.PluginKVRecord) uint64 { return uint64(len(r.Key) + len(r.Value)) }

// addDeadLetter keeps the newest: the oldest make room.
func (x *change) addDeadLetter(d *gwv1.DeadLetterRecord) {
	if old, ok := one[*gwv1.DeadLetterRecord](x.tx, tableDeadLetters, byID, []byte(d.Id)); ok {
		x.dropDeadLetter(old)
	}
	d = proto.CloneOf(d)
	d.At = x.at
	x.put(tableDeadLetters, d)
	x.totals.deadLetters++
	for r := range upTo[*gwv1.DeadLetterRecord](x.tx, tableDeadLetters, byTime, x.totals.deadLetters-maxDeadLetters) {
		x.dropDeadLetter(r)
	}
}

func (x *change) dropDeadLetter(r *gwv1.DeadLetterRecord) {
	x.drop(tableDeadLetters, r)
	x.totals.deadLetters--
}

// orderDeadLetters is all of them or none.
func (x *change) orderDeadLetters(m *gwv1.OrderDeadLetters) *gwv1.Refusal {
	if len(m.GetIds()) == 0 {
		return invalid("no dead letter")
	}
	order, action := DeadLetterDropping, "drop_dead_letters"
	if m.Redeliver {
		order, action = DeadLetterRedelivering, "redeliver_dead_letters"
	}
	object := ""
	for _, id := range m.Ids {
		d, ok := one[*gwv1.DeadLetterRecord](x.tx, tableDeadLetters, byID, []byte(id))
		switch {
		case !ok:
			return notFound("dead letter", id)
		case d.State == DeadLetterGone && m.Redeliver:
			return refuse(gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, "precondition",
				fmt.Sprintf("edge %s no longer has the bytes of dead letter %s: it can only be dropped", d.EdgeId, d.Id))
		case d.State == DeadLetterGone:
			x.dropDeadLetter(d)
		default:
			d = proto.CloneOf(d)
			d.State = order
			x.put(tableDeadLetters, d)
		}
		object = "dead_letter/" + id
	}
	if len(m.Ids) > 1 {
		object = fmt.Sprintf("%d dead letters", len(m.Ids))
	}
	x.audit(action, object, "")
	return nil
}

// resolveDeadLetters takes an edge's word. One that it never was given an order about is nobody's business any more.
func (x *change) resolveDeadLetters(m *gwv1.ResolveDeadLetters) *gwv1.Refusal {
	if p := nameProblem("edge ID", m.GetEdgeId()); p != "" {
		return invalid(p)
	}
	own := func(id string) (*gwv1.DeadLetterRecord, bool) {
		d, ok := one[*gwv1.DeadLetterRecord](x.tx, tableDeadLetters, byID, []byte(id))
		return d, ok && d.EdgeId == m.EdgeId
	}
	for _, id := range m.Done {
		if d, ok := own(id); ok {
			x.dropDeadLetter(d)
		}
	}
	for _, id := range m.Gone {
		d, ok := own(id)
		switch {
		case !ok:
		case d.State == DeadLetterDropping:
			x.dropDeadLetter(d)
		default:
			d = proto.CloneOf(d)
			d.State = DeadLetterGone
			x.put(tableDeadLetters, d)
		}
	}
	return nil
}

// forgetPlugins drops what is kept about plugins only for a while.
func (x *change) forgetPlugins() {
	left := maxForgotten
	some := func(old bool) bool { left--; return old && left >= 0 }
	for _, r := range oldest(x.tx, tablePluginKV, byTime, func(r *gwv1.PluginKVRecord) bool { return some(expired(r, x.at)) }) {
		x.dropKV(r)
	}
	for _, r := range oldest(x.tx, tablePluginMarks, byTime, func(r *gwv1.PluginMarkRecord) bool { return some(x.olderThan(r.At, keepMarks)) }) {
		x.drop(tablePluginMarks, r)
	}
	for _, r := range oldest(x.tx, tableDeadLetters, byTime, func(r *gwv1.DeadLetterRecord) bool { return some(x.olderThan(r.At, keepDeadLetters)) }) {
		x.dropDeadLetter(r)
	}
}

const storeIDLength = 16

func storeProblem(id []byte) string {
	if len(id) != storeIDLength {
		return fmt.Sprintf("store ID: got %d bytes, want %d", len(id), storeIDLength)
	}
	return ""
}

func pluginProblem(id uint32) string {
	if id == 0 {
		return "plugin ID: want a positive number"
	}
	return ""
}

func settledMarkProblem(m *gwv1.SettledMark) string {
	p := first(storeProblem(m.GetStoreId()), pluginProblem(m.GetPluginId()), nameProblem("edge ID", m.GetEdgeId()),
		nameProblem("namespace", m.GetNamespace()), textProblem("last error", m.GetLastError(), maxText))
	if p == "" && m.Sequence <= m.After {
		return "a watermark only rises"
	}
	return p
}

func validPluginKV(r *gwv1.PluginKVRecord) string {
	switch {
	case r.Key == "" || len(r.Key) > MaxPluginKey || !utf8.ValidString(r.Key):
		return fmt.Sprintf("key: want 1 to %d bytes of text", MaxPluginKey)
	case len(r.Value) > MaxPluginValue:
		return fmt.Sprintf("value of %d bytes: want at most %d", len(r.Value), MaxPluginValue)
	}
	return pluginProblem(r.PluginId)
}

func validPluginMark(r *gwv1.PluginMarkRecord) string {
	return first(storeProblem(r.StoreId), pluginProblem(r.PluginId), nameProblem("edge ID", r.EdgeId), nameProblem("namespace", r.Namespace))
}

func validPluginSize(r *gwv1.PluginKVSizeRecord) string { return pluginProblem(r.PluginId) }

func validPluginTally(r *gwv1.PluginTallyRecord) string {
	return first(pluginProblem(r.PluginId), textProblem("last error", r.LastError, maxText))
}

func validDeadLetter(r *gwv1.DeadLetterRecord) string {
	size := 0
	for k, v := range r.GetMetadata() {
		size += len(k) + len(v)
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return "metadata: want text"
		}
	}
	if size > maxDeadLetterMetadata {
		return fmt.Sprintf("metadata: want at most %d bytes", maxDeadLetterMetadata)
	}
	switch r.GetState() {
	case DeadLetterHeld, DeadLetterRedelivering, DeadLetterDropping, DeadLetterGone:
	default:
		return "a dead letter in no state"
	}
	return first(idProblem("dead letter ID", r.GetId()), storeProblem(r.StoreId), pluginProblem(r.PluginId), nameProblem("edge ID", r.EdgeId),
		nameProblem("namespace", r.Namespace), textProblem("correlation ID", r.CorrelationId, 256), textProblem("reason", r.Reason, maxIDLength),
		textProblem("message", r.Message, maxText))
}
