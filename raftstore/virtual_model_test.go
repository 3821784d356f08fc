package raftstore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"gw/rpc/resource"
)

// A write whose outcome is unknown has no end, so the checker may put it after everything else, where it harms nobody:
// that is "it did not happen".

type registerInput struct {
	op            string // get, put, create, cas, delete
	value, expect string // value "": deletes
}

type registerOutput struct {
	outcome outcome
	value   string // of get; "": nothing there
}

// registerModel is one resource: its value, "" if it is not there.
var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(s, input, output any) (bool, any) {
		now, in, out := s.(string), input.(registerInput), output.(registerOutput)
		holds := true
		switch in.op {
		case "get":
			return out.value == now, now
		case "create":
			holds = now == ""
		case "cas":
			holds = now == in.expect
		}
		return settle(out.outcome, holds, now, in.value)
	},
	DescribeOperation: describe, DescribeState: func(s any) string { return s.(string) },
}

// settle is the step of a conditional write from now to next.
func settle[S any](o outcome, holds bool, now, next S) (bool, any) {
	switch {
	case o == refused:
		return !holds, now
	case holds:
		return true, next
	}
	return o == unknown, now
}

type tokenInput struct{ edge string }
type tokenOutput struct{ outcome outcome }

// tokenModel is one join token of one use: whether it is used up.
var tokenModel = porcupine.Model{
	Init: func() any { return false },
	Step: func(s, _, output any) (bool, any) {
		used := s.(bool)
		return settle(output.(tokenOutput).outcome, !used, used, true)
	},
	DescribeOperation: describe, DescribeState: func(s any) string { return fmt.Sprint(s) },
}

type credentialInput struct{ revoke bool } // else: is it valid?
type credentialOutput struct{ valid bool }

// credentialModel is one token: whether it is valid. Nobody is told of it before it is.
var credentialModel = porcupine.Model{
	Init: func() any { return true },
	Step: func(s, input, output any) (bool, any) {
		if input.(credentialInput).revoke {
			return true, false
		}
		return output.(credentialOutput).valid == s.(bool), s
	},
	DescribeOperation: describe, DescribeState: func(s any) string { return fmt.Sprint(s) },
}

type sumInput struct{ op, name, value string } // sum, put, delete
type sumOutput struct {
	outcome  outcome
	checksum resource.Digest
}

// sumModel is a namespace of two resources, s0 and s1: their values.
var sumModel = porcupine.Model{
	Init: func() any { return [2]string{} },
	Step: func(s, input, output any) (bool, any) {
		now, in, out := s.([2]string), input.(sumInput), output.(sumOutput)
		if in.op == "sum" {
			return checksumOf(now) == out.checksum, now
		}
		next := now
		next[strings.Index("01", in.name[1:])] = in.value
		return settle(out.outcome, true, now, next)
	},
	DescribeOperation: describe, DescribeState: func(s any) string { return fmt.Sprint(s) },
}

func checksumOf(values [2]string) resource.Digest {
	var entries []resource.Entry
	for i, v := range values {
		if name := fmt.Sprintf("s%d", i); v != "" {
			entries = append(entries, resource.Entry{Kind: "API", Name: name, Digest: resource.DigestOf("API", name, []byte(v))})
		}
	}
	return resource.Checksum(slices.Values(entries))
}

func describe(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) }

func modelOf(partition string) porcupine.Model {
	switch {
	case partition == "sum":
		return sumModel
	case strings.HasPrefix(partition, "token/"):
		return tokenModel
	case strings.HasPrefix(partition, "credential/"):
		return credentialModel
	}
	return registerModel
}
