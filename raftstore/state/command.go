package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// FeatureLevel is the highest level of commands this version of gw understands.
const FeatureLevel = 1

// EncodeCommand returns the bytes of a log entry, the same for equal commands.
func EncodeCommand(c *gwv1.Command) ([]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	return data, nil
}

// DecodeCommand reads a log entry. Any bytes make a command: what this version of gw doesn't know in it leaves the
// command without a body, and Apply then skips it or has no result, as the command says.
func DecodeCommand(data []byte) *gwv1.Command {
	c := &gwv1.Command{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, c); err != nil {
		return &gwv1.Command{}
	}
	// EncodeCommand has one encoding for what it knows, so a difference in length is something this version lacks.
	if proto.Size(c) != len(data) {
		c.Body = nil
	}
	return c
}

// Known reports whether Apply understands the command; the error says why not, and wraps ErrTooOld.
func Known(c *gwv1.Command) error {
	if c.GetFeatureLevel() > FeatureLevel {
		return fmt.Errorf("%w: the log has a command of feature level %d, this version of gw knows %d",
			ErrTooOld, c.GetFeatureLevel(), FeatureLevel)
	}
	if c.GetBody() == nil {
		return fmt.Errorf("%w: the log has a command this version of gw does not know", ErrTooOld)
	}
	return nil
}
