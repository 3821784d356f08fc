package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gw/rpc/resource"
)

// stdinName is what positions in standard input are shown with.
const stdinName = "stdin"

// readDocuments reads the resources of files, directories and "-" for standard input. All that is wrong in any of them is
// returned at once, as resource.Errors; then no document is.
func (c *Context) readDocuments(paths []string) ([]*resource.Document, error) {
	var (
		docs []*resource.Document
		errs resource.Errors
		left = int64(resource.MaxFile)
		from = map[resource.Key]*resource.Document{}
	)
	files, err := listFiles(paths)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		data, err := c.readFile(file, left)
		if err != nil {
			return nil, err
		}
		left -= int64(len(data))
		if file == "-" {
			file = stdinName
		}
		read, err := resource.Parse(file, data)
		var wrong resource.Errors
		if errors.As(err, &wrong) {
			errs = append(errs, wrong...)
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		for _, d := range read {
			if first := from[d.Key]; first != nil {
				line, _ := first.Locate("")
				errs = append(errs, errorAt(d, &resource.Error{Field: "metadata.name", Code: resource.CodeConflict,
					Message: fmt.Sprintf("is in namespace %s twice, first at %s:%d", d.Namespace, first.File(), line), Expected: "each resource once"}))
			}
			from[d.Key] = d
		}
		docs = append(docs, read...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("there are no resources in %s", strings.Join(paths, ", "))
	}
	return docs, nil
}

// errorAt returns e as an error about a document, with where its field stands.
func errorAt(d *resource.Document, e *resource.Error) *resource.Error {
	e.File = d.File()
	e.Line, e.Column = d.Locate(e.Field)
	e.Kind, e.Namespace, e.Name = d.Kind, d.Namespace, d.Name
	return e
}

// listFiles replaces directories by the resource files in them, in name order, at any depth. What begins with a dot is
// not looked at.
func listFiles(paths []string) ([]string, error) {
	var files []string
	for _, root := range paths {
		if root == "-" {
			files = append(files, root)
			continue
		}
		info, err := os.Stat(root)
		if err != nil {
			return nil, fmt.Errorf("read resources: %w", err)
		}
		if !info.IsDir() {
			files = append(files, root)
			continue
		}
		err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch hidden := strings.HasPrefix(entry.Name(), ".") && path != root; {
			case err != nil:
				return err
			case entry.IsDir() && hidden:
				return filepath.SkipDir
			case entry.IsDir() || hidden:
				return nil
			}
			switch filepath.Ext(path) {
			case ".yaml", ".yml", ".json":
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read resources in %s: %w", root, err)
		}
	}
	return files, nil
}

// readFile reads a file of at most limit bytes.
func (c *Context) readFile(file string, limit int64) ([]byte, error) {
	from := c.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read resources: %w", err)
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read resources in %s: %w", file, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read resources: %s: the files have more than %d bytes together", file, int64(resource.MaxFile))
	}
	return data, nil
}
