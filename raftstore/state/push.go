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
	if r := checkScope(m); r != nil {
		return r
	}
	plans := make([]*plan, 0, len(m.Namespaces))
	var problems []*problem
	for _, n := range m.Namespaces {
		p := x.plan(n.Namespace)
		plans = append(plans, p)
		problems = append(problems, x.problems(p, n.Checksum, m.ConfirmRemoval)...)
	}
	if len(problems) > 0 {
		return refusalOf(problems)
	}
	x.result.Push = &gwv1.PushedReleases{}
	for _, p := range plans {
		x.result.Push.Namespaces = append(x.result.Push.Namespaces, x.release(p, m.Note))
	}
	if x.result.Push.Number > 0 {
		x.cluster.PushNumber = x.result.Push.Number
		x.audit("push", fmt.Sprintf("push/%d", x.result.Push.Number), onlyNamespace(m))
	}
	return nil
}

func checkScope(m *gwv1.PushReleases) *gwv1.Refusal {
	if len(m.GetNamespaces()) == 0 {
		return invalid("a push of no namespace")
	}
	seen := make(map[string]bool, len(m.Namespaces))
	for _, n := range m.Namespaces {
		p := first(edgeNamespaceProblem(n.GetNamespace()), hashProblem("checksum", n.GetChecksum()))
		if p == "" && seen[n.Namespace] {
			p = fmt.Sprintf("namespace %q stands in the push twice", n.Namespace)
		}
		if p != "" {
			return invalid(p)
		}
		seen[n.Namespace] = true
	}
	if p := textProblem("note", m.Note, maxText); p != "" {
		return invalid(p)
	}
	return nil
}

func onlyNamespace(m *gwv1.PushReleases) string {
	if len(m.Namespaces) == 1 {
		return m.Namespaces[0].Namespace
	}
	return ""
}

// plan is what a push would do to one namespace.
type plan struct {
	namespace                 string
	current                   *Release // nil: none yet
	effective                 []*gwv1.ResourceRecord
	checksum                  resource.Digest
	size                      uint64
	created, updated, deleted uint32
	entries                   *iradix.Tree
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

func (x *change) problems(p *plan, compiled []byte, confirmed bool) (found []*problem) {
	add := func(rank int, code gwv1.RefusalCode, v *gwv1.Violation) {
		v.Namespace = p.namespace
		found = append(found, &problem{rank, code, v})
	}
	if string(compiled) != string(p.checksum[:]) {
		add(1, gwv1.RefusalCode_REFUSAL_CODE_CHANGED, &gwv1.Violation{Code: "changed",
			Message: fmt.Sprintf("%s changed since it was checked", p.namespace)})
		return found
	}
	if p.entries == nil {
		return nil
	}
	if p.size > MaxEffective {
		add(2, gwv1.RefusalCode_REFUSAL_CODE_TOO_LARGE, &gwv1.Violation{Code: "too_large",
			Message:  fmt.Sprintf("the configuration of %s has %d bytes", p.namespace, p.size),
			Expected: fmt.Sprintf("at most %d bytes", MaxEffective)})
	}
	for _, r := range p.effective {
		for _, s := range r.Secrets {
			if !x.hasSecret(p.namespace, s) {
				add(3, gwv1.RefusalCode_REFUSAL_CODE_PRECONDITION, &gwv1.Violation{Kind: r.Kind, Name: r.Name, Code: "missing_secret",
					Message: fmt.Sprintf("%s/%s names secret %q, which neither %s nor global has", r.Kind, r.Name, s, p.namespace)})
			}
		}
	}
	if p.current != nil && !confirmed && p.deleted >= 2 && 2*int(p.deleted) > p.current.Len() {
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
