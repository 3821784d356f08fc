package state

import (
	"time"

	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Apply returns the state after the command at a log index, the command's result, and the keys of the working
// resources it changed. It is total: any command, at any state, gives the same answer everywhere and never panics. A
// command that is refused (result.Refusal) changes nothing but the index. A command this version of gw can't
// understand and may not skip has no result, and the state is s: the caller must stop, and says why with Known. The
// state keeps parts of the command, so nobody may change it afterwards.
func (s *State) Apply(index uint64, c *gwv1.Command) (*State, *gwv1.Result, []resource.Key) {
	if Known(c) != nil {
		return s.skip(index, c)
	}
	x := begin(s, index, c)
	defer x.tx.Abort() // nothing, once committed
	if r := x.checkEnvelope(); r != nil {
		return x.refused(r)
	}
	x.forgetOld()
	fingerprint, repeated, r := x.recall()
	switch {
	case r != nil:
		return x.refused(r)
	case repeated != nil:
		return s.At(index), repeated, nil
	}
	if r := x.run(); r != nil {
		return x.refused(r)
	}
	x.remember(fingerprint)
	if x.err != nil {
		return x.refused(refuse(gwv1.RefusalCode_REFUSAL_CODE_INVALID, "internal", x.err.Error()))
	}
	return x.commit()
}

// skip counts a command that its proposer said may be skipped.
func (s *State) skip(index uint64, c *gwv1.Command) (*State, *gwv1.Result, []resource.Key) {
	if !c.GetSkippable() {
		return s, nil, nil
	}
	next := *s.At(index)
	next.cluster = proto.CloneOf(s.cluster)
	next.cluster.SkippedCommands++
	next.cluster.Now = max(s.cluster.Now, c.GetProposedAt())
	r := refuse(gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, "skipped", "the leader's version of gw does not know this command")
	return &next, &gwv1.Result{Index: index, Refusal: r}, nil
}

// change is one command being applied: a transaction over a copy of the state's tables, which is dropped whole if the
// command is refused.
type change struct {
	before  *State
	command *gwv1.Command
	index   uint64
	at      int64 // the cluster's time: never earlier than that of a command before

	db      *memdb.MemDB
	tx      *memdb.Txn
	cluster *gwv1.ClusterRecord
	floor   uint64
	totals  totals
	result  *gwv1.Result
	touched []resource.Key
	pushes  map[string][]*gwv1.PushRecord // namespace → see named
	err     error                         // the first error of memdb; none is expected
}

func begin(s *State, index uint64, c *gwv1.Command) *change {
	x := &change{
		before: s, command: c, index: index, at: max(s.cluster.Now, c.ProposedAt),
		db: s.db.Snapshot(), cluster: proto.CloneOf(s.cluster), floor: s.accessFloor, totals: s.totals,
		result: &gwv1.Result{Index: index},
	}
	x.tx = x.db.Txn(true)
	x.cluster.Now = x.at
	return x
}

func (x *change) commit() (*State, *gwv1.Result, []resource.Key) {
	x.tx.Commit()
	next := &State{index: max(x.index, x.before.index), cluster: x.cluster, accessFloor: x.floor, db: x.db, totals: x.totals}
	return next, x.result, x.touched
}

func (x *change) refused(r *gwv1.Refusal) (*State, *gwv1.Result, []resource.Key) {
	return x.before.At(x.index), &gwv1.Result{Index: x.index, Refusal: r}, nil
}

func (x *change) put(table string, record any) {
	if err := x.tx.Insert(table, record); err != nil && x.err == nil {
		x.err = err
	}
}

func (x *change) drop(table string, record any) {
	if err := x.tx.Delete(table, record); err != nil && x.err == nil {
		x.err = err
	}
}

func (x *change) checkEnvelope() *gwv1.Refusal {
	p := first(actorProblem(x.command.Actor), textProblem("actor's address", x.command.ActorAddress, maxText))
	if p == "" && x.command.IdempotencyKey != "" {
		p = idProblem("idempotency key", x.command.IdempotencyKey)
	}
	if p != "" {
		return invalid(p)
	}
	return nil
}

// run changes the tables as the command says, or says why not.
func (x *change) run() *gwv1.Refusal {
	switch b := x.command.Body.(type) {
	case *gwv1.Command_Bootstrap:
		return x.bootstrap(b.Bootstrap)
	case *gwv1.Command_OpenTerm:
		return x.openTerm(b.OpenTerm)
	case *gwv1.Command_StageBlobs:
		return x.stageBlobs(b.StageBlobs)
	case *gwv1.Command_ChangeResources:
		return x.changeResources(b.ChangeResources)
	case *gwv1.Command_PushReleases:
		return x.pushReleases(b.PushReleases)
	case *gwv1.Command_PutApp:
		return x.putApp(b.PutApp)
	case *gwv1.Command_DeleteApp:
		return x.deleteApp(b.DeleteApp)
	case *gwv1.Command_PutToken:
		return x.putToken(b.PutToken)
	case *gwv1.Command_RevokeToken:
		return x.revokeToken(b.RevokeToken)
	case *gwv1.Command_PutSecret:
		return x.putSecret(b.PutSecret)
	case *gwv1.Command_DeleteSecret:
		return x.deleteSecret(b.DeleteSecret)
	case *gwv1.Command_PutJoinToken:
		return x.putJoinToken(b.PutJoinToken)
	case *gwv1.Command_DeleteJoinToken:
		return x.deleteJoinToken(b.DeleteJoinToken)
	case *gwv1.Command_EnrollEdge:
		return x.enrollEdge(b.EnrollEdge)
	case *gwv1.Command_UpdateEdges:
		return x.updateEdges(b.UpdateEdges)
	case *gwv1.Command_RemoveEdge:
		return x.removeEdge(b.RemoveEdge)
	case *gwv1.Command_PutUser:
		return x.putUser(b.PutUser)
	case *gwv1.Command_PutSession:
		return x.putSession(b.PutSession)
	case *gwv1.Command_DeleteSession:
		return x.deleteSession(b.DeleteSession)
	case *gwv1.Command_EnrollHub:
		return x.enrollHub(b.EnrollHub)
	case *gwv1.Command_PutHub:
		return x.putHub(b.PutHub)
	case *gwv1.Command_RemoveHub:
		return x.removeHub(b.RemoveHub)
	case *gwv1.Command_Beacon:
		return nil
	case *gwv1.Command_RaiseEpoch:
		return x.raiseEpoch(b.RaiseEpoch)
	case *gwv1.Command_RollbackReleases:
		return x.rollbackReleases(b.RollbackReleases)
	case *gwv1.Command_FreezePushes:
		return x.freezePushes(b.FreezePushes)
	case *gwv1.Command_UnfreezePushes:
		return x.unfreezePushes(b.UnfreezePushes)
	case *gwv1.Command_RevokeEdge:
		return x.revokeEdge(b.RevokeEdge)
	case *gwv1.Command_RetryEdge:
		return x.retryEdge(b.RetryEdge)
	case *gwv1.Command_LabelEdge:
		return x.labelEdge(b.LabelEdge)
	case *gwv1.Command_DeleteUser:
		return x.deleteUser(b.DeleteUser)
	case *gwv1.Command_SettlePayloads:
		return x.settlePayloads(b.SettlePayloads)
	case *gwv1.Command_ChangePluginKv:
		return x.changePluginKV(b.ChangePluginKv)
	case *gwv1.Command_OrderDeadLetters:
		return x.orderDeadLetters(b.OrderDeadLetters)
	case *gwv1.Command_ResolveDeadLetters:
		return x.resolveDeadLetters(b.ResolveDeadLetters)
	}
	return invalid("a command without a meaning") // a body that was added here but not above: the tests see it
}

func (x *change) bootstrap(m *gwv1.Bootstrap) *gwv1.Refusal {
	if x.cluster.ClusterId != "" {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_ALREADY_EXISTS, "already_exists", "the cluster has an ID already")
	}
	if p := idProblem("cluster ID", m.GetClusterId()); p != "" {
		return invalid(p)
	}
	x.cluster.ClusterId = m.ClusterId
	x.cluster.CaCertificate, x.cluster.SealedCaKey = m.CaCertificate, m.SealedCaKey
	x.cluster.Epoch, x.cluster.FeatureLevel = 1, FeatureLevel
	x.audit("bootstrap", "cluster/"+m.ClusterId, "")
	return nil
}

func (x *change) openTerm(m *gwv1.OpenTerm) *gwv1.Refusal {
	if m.GetTerm() <= x.cluster.OpenTerm {
		return refuse(gwv1.RefusalCode_REFUSAL_CODE_CHANGED, "changed", "this term or a later one is open already")
	}
	if p := first(idProblem("node ID", m.NodeId), textProblem("version", m.Version, maxText)); p != "" {
		return invalid(p)
	}
	x.cluster.OpenTerm, x.cluster.OpenTermNode = m.Term, m.NodeId
	return nil
}

// What is kept for a while, and for how long.
const (
	maxAudit            = 10_000
	keepAccessChanges   = 24 * time.Hour
	maxAccessChanges    = 100_000
	keepIdempotency     = 24 * time.Hour
	maxIdempotencyKeys  = 100_000
	maxIdempotencyBytes = 64 << 20
	keepStaged          = time.Hour
	maxStagedBytes      = 256 << 20
	keepReleases        = 100
	// keepRevocations is longer than a certificate that was issued before one can still be renewed: a day and 90 more.
	keepRevocations = 120 * 24 * time.Hour
)

// audit records the change; it takes the actor and the time from the command.
func (x *change) audit(action, object, namespace string) {
	x.put(tableAudit, &gwv1.AuditRecord{
		Index: x.index, At: x.at, Actor: x.command.Actor, ActorAddress: x.command.ActorAddress,
		Action: action, Object: object, Namespace: namespace,
	})
	x.totals.auditEntries++
	for r := range upTo[*gwv1.AuditRecord](x.tx, tableAudit, byID, x.totals.auditEntries-maxAudit) {
		x.drop(tableAudit, r)
		x.totals.auditEntries--
	}
}

// forgetEvery is how far the cluster's time goes on before the tables are looked through again for what is too old:
// looking costs more than most commands.
const forgetEvery = 100 * time.Millisecond

// forgetOld drops what is kept only for a while.
func (x *change) forgetOld() {
	if x.at/int64(forgetEvery) == x.before.cluster.Now/int64(forgetEvery) {
		return
	}
	for _, r := range oldest(x.tx, tableAccess, byID, func(r *gwv1.AccessChangeRecord) bool {
		return x.olderThan(r.At, keepAccessChanges)
	}) {
		x.dropAccessChange(r)
	}
	for _, r := range oldest(x.tx, tableIdempotency, byIndex, func(r *gwv1.IdempotencyRecord) bool {
		return x.olderThan(r.At, keepIdempotency)
	}) {
		x.dropIdempotency(r)
	}
	for _, r := range oldest(x.tx, tableStaged, byTime, func(r *gwv1.StagedBlob) bool {
		return x.olderThan(r.At, keepStaged)
	}) {
		x.dropStaged(r)
	}
	for _, r := range oldest(x.tx, tableTimelines, byTime, func(r *gwv1.TimelineRecord) bool {
		return x.olderThan(r.RemovedAt, keepTimelines)
	}) {
		x.drop(tableTimelines, r)
	}
	for _, r := range oldest(x.tx, tableRevocations, byTime, func(r *gwv1.RevocationRecord) bool {
		return x.olderThan(r.At, keepRevocations)
	}) {
		x.forgetRevocation(r)
	}
	x.forgetPlugins()
}

func (x *change) olderThan(at int64, d time.Duration) bool { return x.at-at > int64(d) }

// oldest returns the records from the front of an index for which old holds, up to the first for which it doesn't.
func oldest[T any](tx *memdb.Txn, table, index string, old func(T) bool) (found []T) {
	for r := range list[T](tx, table, index, nil) {
		if !old(r) {
			break
		}
		found = append(found, r)
	}
	return found
}

// upTo yields the first n records of an index, from a copy: the caller may drop them.
func upTo[T any](tx *memdb.Txn, table, index string, n int) func(yield func(T) bool) {
	var found []T
	if n > 0 {
		found = oldest(tx, table, index, func(T) bool { n--; return n >= 0 })
	}
	return func(yield func(T) bool) {
		for _, r := range found {
			if !yield(r) {
				return
			}
		}
	}
}
