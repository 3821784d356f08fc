package cli

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Output is the flag of every command that shows something.
type Output struct {
	Output string `short:"o" enum:"table,json,yaml" default:"table" placeholder:"FORMAT" help:"table for people; json or yaml for programs: a list is an array, one thing an object."`
}

// forPeople tells whether people read the output.
func (o *Output) forPeople() bool { return o.Output == "table" }

// value prints a value for programs.
func (o *Output) value(c *Context, v plain) error {
	var data []byte
	var err error
	if o.Output == "yaml" {
		data, err = encodeYAML(v)
	} else if data, err = marshalJSON(v); err == nil {
		var b bytes.Buffer
		err = json.Indent(&b, data, "", "  ")
		data = append(b.Bytes(), '\n')
	}
	if err != nil {
		return fmt.Errorf("encode as %s: %w", o.Output, err)
	}
	_, err = c.Stdout.Write(data)
	return err
}

// one prints a message for programs.
func (o *Output) one(c *Context, m proto.Message) error { return o.value(c, plainOf(m)) }

// list prints messages: for programs an array, for people the table, or a sentence on stderr if there are none.
func list[M proto.Message](o *Output, c *Context, items []M, none string, t *table, row func(M)) error {
	if !o.forPeople() {
		values := make([]any, len(items))
		for i, item := range items {
			values[i] = plainOf(item)
		}
		return o.value(c, values)
	}
	if len(items) == 0 {
		c.say("%s", none)
		return nil
	}
	for _, item := range items {
		row(item)
	}
	return t.write(c.Stdout, c.colors(c.Stdout))
}
