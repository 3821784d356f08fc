package cli

import (
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// paint is a color of a cell, as an SGR parameter; "" for none.
type paint string

const (
	plainText paint = ""
	green     paint = "32"
	yellow    paint = "33"
	red       paint = "31"
	faint     paint = "2"
)

// cell is text in a table.
type cell struct {
	text  string
	paint paint
}

// table is aligned columns under headings.
type table struct {
	headings []string
	rows     [][]cell
}

// add appends a row of strings and cells.
func (t *table) add(values ...any) {
	row := make([]cell, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case cell:
			row[i] = v
		case string:
			row[i] = cell{text: v}
		}
		row[i].text = strings.ReplaceAll(printable(row[i].text), "\n", " ")
		if row[i].text == "" {
			row[i].text = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// write writes the table, in colors if it may.
func (t *table) write(w io.Writer, colors bool) error {
	head := make([]cell, len(t.headings))
	for i, h := range t.headings {
		head[i] = cell{h, faint}
	}
	widths := make([]int, len(t.headings))
	for _, row := range append([][]cell{head}, t.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, row := range append([][]cell{head}, t.rows...) {
		for i, c := range row {
			b.WriteString(c.paint.on(c.text, colors))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// on returns text in the color, or as it is.
func (p paint) on(text string, colors bool) string {
	if !colors || p == plainText {
		return text
	}
	return "\x1b[" + string(p) + "m" + text + "\x1b[0m"
}

// printable replaces what could steer a terminal: what a hub sends may come from an edge or a stranger's file.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, s)
}

// colors tells whether a stream takes colors: a terminal, unless NO_COLOR is set (https://no-color.org).
func (c *Context) colors(stream any) bool {
	return c.env("NO_COLOR") == "" && c.env("TERM") != "dumb" && c.isTerminal(stream)
}

// ago tells how long ago something was, in its largest unit.
func (c *Context) ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return span(c.now().Sub(t.AsTime())) + " ago"
}

// until tells how far away something is.
func (c *Context) until(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	d := t.AsTime().Sub(c.now())
	if d <= 0 {
		return "over"
	}
	if d > 2*time.Minute {
		d = d.Round(time.Minute) // what was made for an hour shall not be shown as 59 minutes
	}
	return "in " + span(d)
}

func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Hour).String(), "0m0s")
	default:
		return itoa(int64(d/(24*time.Hour))) + "d"
	}
}
