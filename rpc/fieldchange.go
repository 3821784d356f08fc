package rpc

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"gw/rpc/gwv1"
)

const (
	// maxFieldChanges is how many fields of one resource are compared before the rest is left to the specs themselves.
	maxFieldChanges = 500
	// maxAligned is the longest list whose elements are matched with one another; longer ones are compared by position.
	maxAligned = 500
)

// fieldChanges returns what differs between two specs, in order of paths; nothing if either is nil. Elements of lists
// that are equal are matched, by a longest common subsequence; what is left between two matches is compared in order.
func fieldChanges(before, after *structpb.Struct) []*gwv1.FieldChange {
	if before == nil || after == nil {
		return nil
	}
	var c comparison
	c.structs("spec", before, after)
	return c.found
}

type comparison struct{ found []*gwv1.FieldChange }

func (c *comparison) add(path string, before, after *structpb.Value) {
	if len(c.found) < maxFieldChanges {
		c.found = append(c.found, &gwv1.FieldChange{Path: path, Before: before, After: after})
	}
}

func (c *comparison) structs(path string, before, after *structpb.Struct) {
	names := make([]string, 0, len(before.Fields)+len(after.Fields))
	for n := range before.Fields {
		names = append(names, n)
	}
	for n := range after.Fields {
		if before.Fields[n] == nil {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		c.values(path+"."+n, before.Fields[n], after.Fields[n])
	}
}

// values compares two values of which one may be nil.
func (c *comparison) values(path string, before, after *structpb.Value) {
	if proto.Equal(before, after) {
		return
	}
	switch {
	case before.GetStructValue() != nil && after.GetStructValue() != nil:
		c.structs(path, before.GetStructValue(), after.GetStructValue())
	case before.GetListValue() != nil && after.GetListValue() != nil:
		c.lists(path, before.GetListValue().Values, after.GetListValue().Values)
	default:
		c.add(path, before, after)
	}
}

func (c *comparison) lists(path string, before, after []*structpb.Value) {
	b, a := 0, 0
	gap := func(toB, toA int) {
		for ; b < toB && a < toA; b, a = b+1, a+1 {
			c.values(fmt.Sprintf("%s[%d]", path, a), before[b], after[a])
		}
		for ; b < toB; b++ {
			c.add(fmt.Sprintf("%s[%d]", path, b), before[b], nil)
		}
		for ; a < toA; a++ {
			c.add(fmt.Sprintf("%s[%d]", path, a), nil, after[a])
		}
	}
	for _, m := range aligned(before, after) {
		gap(m.before, m.after)
		b, a = m.before+1, m.after+1
	}
	gap(len(before), len(after))
}

// match is a pair of equal elements by their positions.
type match struct{ before, after int }

// aligned returns the pairs of a longest common subsequence; none for long lists.
func aligned(before, after []*structpb.Value) (pairs []match) {
	if len(before) > maxAligned || len(after) > maxAligned {
		return nil
	}
	keys := func(list []*structpb.Value) []string {
		keys := make([]string, len(list))
		for i, v := range list {
			b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(v) // of what was just rendered
			keys[i] = string(b)
		}
		return keys
	}
	x, y := keys(before), keys(after)
	same := func(i, j int) bool { return x[i] == y[j] }
	// length[i][j] is that of the longest common subsequence of before[i:] and after[j:].
	length := make([][]uint16, len(before)+1)
	for i := range length {
		length[i] = make([]uint16, len(after)+1)
	}
	for i := len(before) - 1; i >= 0; i-- {
		for j := len(after) - 1; j >= 0; j-- {
			if same(i, j) {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	for i, j := 0, 0; i < len(before) && j < len(after); {
		switch {
		case same(i, j):
			pairs = append(pairs, match{i, j})
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}
