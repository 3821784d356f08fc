package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// isTerminal tells whether a person reads or writes a stream.
func (c *Context) isTerminal(stream any) bool {
	if c.IsTerminal != nil {
		return c.IsTerminal(stream)
	}
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// interactive tells whether questions can be asked and answered.
func (c *Context) interactive() bool { return c.isTerminal(c.Stdin) && c.isTerminal(c.Stderr) }

// maxLine bounds what is read as an answer, in bytes.
const maxLine = 1 << 16

// ask asks for a line on the terminal.
func (c *Context) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(c.Stderr, question)
	line, err := waitInput(ctx, func() ([]byte, error) { return readLine(c.Stdin) })
	return strings.TrimSpace(string(line)), err
}

// errNotConfirmed ends what was not agreed to.
var errNotConfirmed = errors.New("not confirmed, nothing was changed")

// confirm asks a question that only "y" or "yes" affirms. Without a terminal it refuses, naming the flag that answers.
func (c *Context) confirm(ctx context.Context, question, flag string) error {
	if !c.interactive() {
		return usageError("%s: there is no terminal to ask on; pass %s to go on", question, flag)
	}
	answer, err := c.ask(ctx, question+"? [y/N] ")
	if err != nil {
		return err
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return errNotConfirmed
	}
	return nil
}

// askSecret asks for a line that isn't shown.
func (c *Context) askSecret(ctx context.Context, question string) (string, error) {
	fmt.Fprint(c.Stderr, question)
	defer fmt.Fprintln(c.Stderr)
	if c.ReadPassword != nil {
		secret, err := c.ReadPassword(ctx)
		return string(secret), err
	}
	f, ok := c.Stdin.(*os.File)
	if !ok {
		return "", errors.New("there is no terminal to ask on")
	}
	fd := int(f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("ask on the terminal: %w", err)
	}
	secret, err := waitInput(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if ctx.Err() != nil {
		term.Restore(fd, before) // the interrupted read left it silent
	}
	return string(secret), err
}

// waitInput waits for a person or for the context. A read of a terminal can't be interrupted: when the context ends
// first its goroutine stays behind, for the moment until the process exits.
func waitInput(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type answer struct {
		line []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := read()
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// readLine reads up to a line feed and nothing after it, which is for whoever reads next.
func readLine(r io.Reader) ([]byte, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < maxLine {
		n, err := r.Read(b)
		switch {
		case n == 1 && b[0] == '\n':
			return line, nil
		case n == 1:
			line = append(line, b[0])
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		case errors.Is(err, io.EOF):
			return nil, errors.New("the input ended before there was an answer")
		case err != nil:
			return nil, fmt.Errorf("read the answer: %w", err)
		}
	}
	return nil, fmt.Errorf("the answer has more than %d bytes", maxLine)
}

// readValue reads a secret from a file, "-" for standard input, without the line feed at its end.
func (c *Context) readValue(file string, limit int64) (string, error) {
	var from io.Reader = c.Stdin
	if file == "-" {
		file = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, limit+3))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if int64(len(value)) > limit {
		return "", fmt.Errorf("%s has more than %d bytes", file, limit)
	}
	if value == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return value, nil
}
