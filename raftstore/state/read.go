package state

import (
	"iter"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"

	"gw/rpc/resource"
)

// The reads below can fail only if a table or an index is misnamed, which every test of the reader would show; they
// then find nothing.

func one[T any](tx *memdb.Txn, table, index string, key []byte) (r T, ok bool) {
	if len(key) == 0 {
		return r, false // memdb would take it for "any"
	}
	o, err := tx.First(table, index, key)
	if err != nil || o == nil {
		return r, false
	}
	r, ok = o.(T)
	return r, ok
}

// list yields the records whose key in index starts with prefix, in order of keys.
func list[T any](tx *memdb.Txn, table, index string, prefix []byte) iter.Seq[T] {
	return func(yield func(T) bool) {
		it, err := tx.Get(table, index+"_prefix", prefix)
		if err == nil {
			drain(it, yield)
		}
	}
}

// reversed is list in descending order.
func reversed[T any](tx *memdb.Txn, table, index string, prefix []byte) iter.Seq[T] {
	return func(yield func(T) bool) {
		it, err := tx.GetReverse(table, index+"_prefix", prefix)
		if err == nil {
			drain(it, yield)
		}
	}
}

// from yields the records whose key in index is key or comes after it.
func from[T any](tx *memdb.Txn, table, index string, key []byte) iter.Seq[T] {
	return func(yield func(T) bool) {
		it, err := tx.LowerBound(table, index, key)
		if err == nil {
			drain(it, yield)
		}
	}
}

func drain[T any](it memdb.ResultIterator, yield func(T) bool) {
	for o := it.Next(); o != nil; o = it.Next() {
		r, ok := o.(T)
		if !ok || !yield(r) {
			return
		}
	}
}

// within is list for tables whose keys begin with a namespace; "" is every namespace.
func within[T any](s *State, table, index, namespace string) iter.Seq[T] {
	return list[T](s.db.Txn(false), table, index, prefixOf(namespace))
}

func prefixOf(namespace string) []byte {
	if namespace == "" {
		return nil
	}
	return terminated(namespace)
}

func compareNames(kindA, nameA, kindB, nameB string) int {
	if c := strings.Compare(kindA, kindB); c != 0 {
		return c
	}
	return strings.Compare(nameA, nameB)
}

// namespaces jumps from one namespace to the next in every index that begins with one.
func namespaces(tx *memdb.Txn) []string {
	found := map[string]bool{resource.Default: true}
	for _, x := range []struct{ table, index string }{
		{tableResources, byID}, {tableReleases, byID}, {tableApps, byID}, {tableSecrets, byID},
		{tableJoinTokens, byNamespace}, {tableEdges, byNamespace},
	} {
		for after := []byte(nil); ; {
			it, err := tx.LowerBound(x.table, x.index, after)
			if err != nil {
				break
			}
			r, ok := it.Next().(interface{ GetNamespace() string })
			if !ok {
				break
			}
			found[r.GetNamespace()] = true
			after = append([]byte(r.GetNamespace()), 1) // past every key that begins with it and a zero byte
		}
	}
	delete(found, resource.Global)
	delete(found, "") // of join tokens for hubs
	names := make([]string, 0, len(found))
	for n := range found {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func target(tx *memdb.Txn, namespace string) (*Release, bool) {
	for r := range reversed[*Release](tx, tableReleases, byID, terminated(namespace)) {
		return r, true
	}
	return nil, false
}
