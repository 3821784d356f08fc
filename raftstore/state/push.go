package state

import (
	"fmt"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// MaxEffective is the largest effective configuration that can be released, in bytes of its specs.
const MaxEffective = 64 << 20

// pushReleases makes a release for each named namespace whose effective configuration differs from its target.
func (x *change) pushReleases(m *gwv1.PushReleases) *gwv1.Refusal {
	if r := checkScope(m.GetNote(), m.GetRequest(), m.GetNamespaces()); r != nil {
		return r
	}
	plans := make([]*plan, 0, len(m.Namespaces))
	var found []*problem
	for _, n := range m.Namespaces {
		p := x.plan(n.Namespace)
		plans = append(plans, p)
		if string(n.Checksum) != string(p.checksum[:]) {
			found = append(found, p.changed())
			continue
		}
		found = append(found, x.problems(p, m.ConfirmRemoval, m.BreakGlass)...)
	}
	if len(found) > 0 {
		return refusalOf(found)
	}
	x.makeReleases(m.Request, plans, &gwv1.PushRecord{Note: m.Note, BreakGlass: m.BreakGlass})
	return nil
}

// rollbackReleases makes a release with the content of an older one for each named namespace.
func (x *change) rollbackReleases(m *gwv1.RollbackReleases) *gwv1.Refusal {
	if r := checkScope(m.GetNote(), m.GetRequest(), m.GetNamespaces()); r != nil {
		return r
	}
	plans := make([]*plan, 0, len(m.Namespaces))
	var found []*problem
	for _, n := range m.Namespaces {
		source, ok := one[*Release](x.tx, tableReleases, byID, releaseKey(n.Namespace, n.Source))
		if !ok {
			return notFound("release", fmt.Sprintf("%s/%d", n.Namespace, n.Source))
		}
		p := x.rollbackPlan(source)
		plans = append(plans, p)
		if string(n.Checksum) != string(source.Checksum[:]) || p.current.Number != n.Target {
			found = append(found, p.changed())
			continue
		}
		found = append(found, x.problems(p, m.ConfirmRemoval, m.BreakGlass)...)
	}
	if len(found) > 0 {
		return refusalOf(found)
	}
	x.makeReleases(m.Request, plans, &gwv1.PushRecord{Note: m.Note, BreakGlass: m.BreakGlass, Rollback: true, RollbackTo: m.To})
	return nil
}

// scoped is one namespace of a push or a rollback, with the checksum it was decided by.
type scoped interface {
	GetNamespace() string
	GetChecksum() []byte
}

func checkScope[N scoped](note string, request []byte, scope []N) *gwv1.Refusal {
	if len(scope) == 0 {
		return invalid("a push of no namespace")
	}
	seen := make(map[string]bool, len(scope))
	for _, n := range scope {
		p := first(edgeNamespaceProblem(n.GetNamespace()), hashProblem("checksum", n.GetChecksum()))
		if p == "" && seen[n.GetNamespace()] {
			p = fmt.Sprintf("namespace %q stands in the push twice", n.GetNamespace())
		}
		if p != "" {
			return invalid(p)
		}
		seen[n.GetNamespace()] = true
	}
	p := textProblem("note", note, maxText)
	if p == "" && len(request) > 0 {
		p = hashProblem("request", request)
	}
	if p != "" {
		return invalid(p)
	}
	return nil
}

// makeReleases makes the planned releases, as a request asked for, and, if there are any, the record of the push that r begins.
func (x *change) makeReleases(request []byte, plans []*plan, r *gwv1.PushRecord) {
	x.result.Push = &gwv1.PushedReleases{Request: request}
	for _, p := range plans {
		x.result.Push.Namespaces = append(x.result.Push.Namespaces, x.release(p, r.Note))
	}
	if x.result.Push.Number == 0 {
		return
	}
	x.cluster.PushNumber = x.result.Push.Number
	r.BreakGlass = r.BreakGlass && x.anyFrozen(plans)
	x.recordPush(r)
	action := "push"
	if r.Rollback {
		action = "rollback"
	}
	if r.BreakGlass {
		action += "_break_glass"
	}
	only := ""
	if len(plans) == 1 {
		only = plans[0].namespace
	}
	x.audit(action, fmt.Sprintf("push/%d", x.result.Push.Number), only)
}

func (x *change) anyFrozen(plans []*plan) bool {
	return slices.ContainsFunc(plans, func(p *plan) bool {
		_, ok := frozen(x.tx, p.namespace)
		return ok && p.entries != nil
	})
}

// plan is what a push or a rollback would do to one namespace.
type plan struct {
	namespace                 string
	current                   *Release               // nil: none yet
	effective                 []*gwv1.ResourceRecord // of a push
	checksum                  resource.Digest
	size                      uint64
	created, updated, deleted uint32
	entries                   *iradix.Tree // of the release to be made; nil: none is
}

// rollbackPlan is what bringing back an older release would do; there is a newer one, or it is that itself.
func (x *change) rollbackPlan(source *Release) *plan {
	p := &plan{namespace: source.Namespace, checksum: source.Checksum, size: source.Size}
	p.current, _ = target(x.tx, source.Namespace)
	if p.unchanged(x.cluster.Epoch) {
		return p
	}
	p.entries = source.entries
	difference(p.current.entries, source.entries, func(before, after *gwv1.ReleaseEntry) {
		switch {
		case before == nil:
			p.created++
		case after == nil:
			p.deleted++
		default:
			p.updated++
		}
	})
	return p
}

func (x *change) plan(namespace string) *plan {
	p := &plan{namespace: namespace}
	p.current, _ = target(x.tx, namespace)
	for r := range effective(x.tx, namespace) {
		p.effective = append(p.effective, r)
		p.size += uint64(len(r.Spec))
	}
	p.checksum = resource.Checksum(func(yield func(resource.Entry) bool) {
		for _, r := range p.effective {
			d, _ := resource.AsDigest(r.Digest)
			if !yield(resource.Entry{Kind: r.Kind, Name: r.Name, Digest: d}) {
				return
			}
		}
	})
	if !p.unchanged(x.cluster.Epoch) {
		p.compare()
	}
	return p
}

// unchanged reports that edges already run, or are told to run, what is saved. A release of another epoch is made
// again: edges that ran ahead of a restored hub accept nothing older.
func (p *plan) unchanged(epoch uint64) bool {
	if p.current == nil {
		return p.checksum == resource.EmptyChecksum
	}
	return p.current.Checksum == p.checksum && p.current.Epoch == epoch
}

// compare builds the entries from those of the current release, changing only what differs, and counts.
func (p *plan) compare() {
	old := iradix.New()
	if p.current != nil {
		old = p.current.entries
	}
	txn := old.Txn()
	it := old.Root().Iterator()
	next := func() *gwv1.ReleaseEntry {
		_, v, _ := it.Next()
		e, _ := v.(*gwv1.ReleaseEntry)
		return e
	}
	o := next()
	for _, r := range p.effective {
		for o != nil && compareNames(o.Kind, o.Name, r.Kind, r.Name) < 0 {
			txn.Delete(entryKey(o))
			p.deleted++
			o = next()
		}
		same := o != nil && o.Kind == r.Kind && o.Name == r.Name
		if !same || string(o.Digest) != string(r.Digest) {
			e := &gwv1.ReleaseEntry{Kind: r.Kind, Name: r.Name, Digest: r.Digest, Spec: r.Spec, Secrets: r.Secrets}
			txn.Insert(entryKey(e), e)
			if same {
				p.updated++
			} else {
				p.created++
			}
		}
		if same {
			o = next()
		}
	}
	for ; o != nil; o = next() {
		txn.Delete(entryKey(o))
		p.deleted++
	}
	p.entries = txn.Commit()
}

// problem is one reason against a push. Of several kinds, the refusal speaks of the gravest, which has the lowest rank.
type problem struct {
	rank      int
	code      gwv1.RefusalCode
	violation *gwv1.Violation
}

// changed says that what the command was made from is not what is there.
func (p *plan) changed() *problem {
	return &problem{1, gwv1.RefusalCode_REFUSAL_CODE_CHANGED, &gwv1.Violation{Namespace: p.namespace, Code: "changed",
		Message: fmt.Sprintf("%s changed since it was checked", p.namespace)}}
}

// problems are the reasons against making the planned release; against making none there is nothing to say.
func (x *change) problems(p *plan, confirmed, breakGlass bool) (found []*problem) {
	add := func(rank int, code gwv1.RefusalCode, v *gwv1.Violation) {
		v.Namespace = p.namespace
		found = append(found, &problem{rank, code, v})
	}
	if p.entries == nil {
		return nil
	}
	if f, ok := frozen(x.tx, p.namespace); ok && !breakGlass {
		add(0, gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, &gwv1.Violation{Code: "frozen", Message: FrozenMessage(p.namespace, f)})
	}
	if p.size > MaxEffective {
		add(2, gwv1.RefusalCode_REFUSAL_CODE_TOO_LARGE, &gwv1.Violation{Code: "too_large",
			Message:  fmt.Sprintf("the configuration of %s has %d bytes", p.namespace, p.size),
			Expected: fmt.Sprintf("at most %d bytes", MaxEffective)})
	}
	for r := range entriesOf(p.entries) {
		for _, s := range r.Secrets {
			if !x.hasSecret(p.namespace, s) {
				add(3, gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, &gwv1.Violation{Kind: r.Kind, Name: r.Name, Code: "missing_secret",
					Message: fmt.Sprintf("%s/%s names secret %q, which neither %s nor global has", r.Kind, r.Name, s, p.namespace)})
			}
		}
	}
	if p.current != nil && !confirmed && 2*int(p.deleted) > p.current.Len() {
		add(4, gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, &gwv1.Violation{Code: "confirm_removal",
			Message:  fmt.Sprintf("%s would lose %d of %d resources", p.namespace, p.deleted, p.current.Len()),
			Expected: "an explicit confirmation"})
	}
	return found
}

func (x *change) hasSecret(namespace, name string) bool {
	for _, n := range []string{namespace, resource.Global} {
		if _, ok := one[*gwv1.SecretRecord](x.tx, tableSecrets, byID, join(n, name)); ok {
			return true
		}
	}
	return false
}

const maxViolations = 100 // named in one refusal

func refusalOf(problems []*problem) *gwv1.Refusal {
	slices.SortStableFunc(problems, func(a, b *problem) int { return a.rank - b.rank })
	gravest := problems[0]
	r := refuse(gravest.code, gravest.violation.Code, gravest.violation.Message)
	for _, p := range problems {
		if p.rank == gravest.rank && len(r.Detail.Violations) < maxViolations {
			r.Detail.Violations = append(r.Detail.Violations, p.violation)
		}
	}
	if n := len(r.Detail.Violations) - 1; n > 0 {
		r.Message += fmt.Sprintf(" (and %d more)", n)
	}
	return r
}

// release makes the planned release, or none.
func (x *change) release(p *plan, note string) *gwv1.PushedRelease {
	pushed := &gwv1.PushedRelease{Namespace: p.namespace, Checksum: p.checksum[:]}
	if p.entries == nil {
		if p.current != nil {
			pushed.Number = p.current.Number
		}
		return pushed
	}
	r := &Release{
		Namespace: p.namespace, Number: x.cluster.PushNumber + 1, Epoch: x.cluster.Epoch, Checksum: p.checksum,
		CreatedAt: x.at, CreatedBy: x.command.Actor, Note: note, entries: p.entries,
	}
	r.summarise(p.current)
	x.put(tableReleases, r)
	x.forgetReleases(p.namespace)
	x.result.Push.Number = r.Number
	pushed.Released, pushed.Number = true, r.Number
	pushed.Created, pushed.Updated, pushed.Deleted = p.created, p.updated, p.deleted
	return pushed
}

// forgetReleases keeps the newest releases of a namespace, and those that a registered edge reported as loaded.
func (x *change) forgetReleases(namespace string) {
	var old []*Release
	kept := 0
	for r := range reversed[*Release](x.tx, tableReleases, byID, terminated(namespace)) {
		if kept++; kept > keepReleases {
			old = append(old, r)
		}
	}
	if len(old) == 0 {
		return
	}
	loaded := map[[2]uint64]bool{}
	for e := range list[*gwv1.EdgeRecord](x.tx, tableEdges, byNamespace, terminated(namespace)) {
		loaded[[2]uint64{e.LoadedEpoch, e.LoadedRelease}] = true
	}
	for _, r := range old {
		if !loaded[[2]uint64{r.Epoch, r.Number}] {
			x.drop(tableReleases, r)
		}
	}
}
