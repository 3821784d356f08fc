package llm

// Border follows an event stream that is written to it in pieces of any size, and knows whether it stands between two
// events. The zero value stands before the first.
type Border struct {
	// text says of the last two bytes, carriage returns aside, whether they are other than newlines.
	text [2]bool
}

// Write takes the next piece. It never fails.
func (b *Border) Write(p []byte) (int, error) {
	var last [2]bool
	known := 0
	for i := len(p) - 1; i >= 0 && known < 2; i-- {
		if p[i] != '\r' {
			known++
			last[2-known] = p[i] != '\n'
		}
	}
	switch known {
	case 1:
		b.text = [2]bool{b.text[1], last[1]}
	case 2:
		b.text = last
	}
	return len(p), nil
}

// Between reports whether the stream stands between two events, where another one may follow.
func (b *Border) Between() bool { return !b.text[0] && !b.text[1] }
