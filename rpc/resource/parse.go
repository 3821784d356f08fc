package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"buf.build/go/protovalidate"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// MaxFile is the most bytes Parse reads.
const MaxFile = 64 << 20

// Parse reads every resource of a YAML or JSON file of many documents. It is strict: unknown and repeated fields, wrong
// types and values outside their range are errors. A document's "status" is passed over, so that what was printed can be
// read again. The error is Errors, with all that is wrong; then no document is returned.
func Parse(file string, data []byte) ([]*Document, error) {
	if len(data) > MaxFile {
		return nil, Errors{{File: file, Code: CodeTooLarge, Message: fmt.Sprintf("has %d bytes", len(data)), Expected: fmt.Sprintf("at most %d", MaxFile)}}
	}
	tops, errs := readNodes(file, data)
	var (
		docs   []*Document
		seen   = map[Key]*Document{}
		budget = nodeBudget
	)
	for _, top := range tops {
		if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
			continue
		}
		d, more := readDocument(file, top, &budget)
		errs = append(errs, more...)
		if before, twice := seen[d.Key]; twice && d.Name != "" {
			line, _ := before.Locate("")
			errs = append(errs, d.errorAt("metadata.name", CodeConflict, fmt.Sprintf("is in namespace %s twice, first on line %d", d.Namespace, line), "each resource once"))
		}
		seen[d.Key] = d
		docs = append(docs, d)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return docs, nil
}

// readNodes returns the documents of a file, as far as they can be parsed.
func readNodes(file string, data []byte) (tops []*yaml.Node, errs Errors) {
	if documents, ok := readJSON(data); ok {
		return documents, nil
	}
	stream := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var root yaml.Node
		err := stream.Decode(&root)
		if errors.Is(err, io.EOF) {
			return tops, nil
		}
		if err != nil {
			return tops, Errors{syntaxError(file, err)}
		}
		tops = append(tops, root.Content[0])
	}
}

// FromProto reads a resource from a request, as strictly as Parse. The error is Errors.
func FromProto(r *gwv1.Resource) (*Document, error) {
	budget := nodeBudget
	d := &Document{Key: Key{Kind: r.GetKind(), Namespace: r.GetMetadata().GetNamespace(), Name: r.GetMetadata().GetName()}, Labels: r.GetMetadata().GetLabels()}
	spec := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	if r.GetSpec() != nil {
		spec = structNode(r.GetSpec())
	}
	errs := finish(d, r.GetApiVersion(), spec, &budget)
	return d, errs.orNil()
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func syntaxError(file string, err error) *Error {
	e := &Error{File: file, Line: 1, Column: 1, Code: CodeSyntax, Message: err.Error(), Expected: "valid YAML or JSON"}
	if m := yamlLine.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " ")); m != nil {
		e.Message = m[2]
		if n, convErr := strconv.Atoi(m[1]); convErr == nil {
			e.Line = n
		}
	}
	return e
}

// readDocument reads one resource. The document is returned even with errors, as far as it is known.
func readDocument(file string, top *yaml.Node, budget *int) (*Document, Errors) {
	d := &Document{file: file, positions: map[string]position{"": {top.Line, top.Column}}}
	r := reader{document: d, budget: budget}
	fields := r.mapping(top, "", []string{"apiVersion", "kind", "metadata", "spec", "status"})
	apiVersion := r.text(fields["apiVersion"], "apiVersion")
	d.Kind = r.text(fields["kind"], "kind")
	meta := new(gwv1.ResourceMetadata)
	if n := fields["metadata"]; n != nil {
		r.message(n, meta.ProtoReflect(), "metadata")
	}
	d.Namespace, d.Name, d.Labels = meta.Namespace, meta.Name, meta.Labels
	// The errors so far were made before kind and name were known.
	for _, e := range r.errs {
		e.Kind, e.Namespace, e.Name = d.Kind, d.Namespace, d.Name
	}
	spec := fields["spec"]
	if spec == nil {
		spec = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: top.Line, Column: top.Column}
	}
	return d, append(r.errs, finish(d, apiVersion, spec, budget)...)
}

// finish checks what surrounds the spec, reads the spec, makes defaults explicit and checks the values.
func finish(d *Document, apiVersion string, spec *yaml.Node, budget *int) (errs Errors) {
	fail := func(field, code, message, expected string) {
		errs = append(errs, d.errorAt(field, code, message, expected))
	}
	if d.Namespace == "" {
		d.Namespace = Default
	}
	if apiVersion != "" && apiVersion != APIVersion {
		fail("apiVersion", CodeInvalid, strconv.Quote(apiVersion)+" is not known", strconv.Quote(APIVersion))
	}
	if !ValidName(d.Name) {
		fail("metadata.name", CodeInvalid, strconv.Quote(d.Name)+" is not a name", NameRule)
	}
	if !ValidName(d.Namespace) {
		fail("metadata.namespace", CodeInvalid, strconv.Quote(d.Namespace)+" is not a name", NameRule)
	}
	k, ok := kindNamed(d.Kind)
	if !ok {
		fail("kind", CodeInvalid, strconv.Quote(d.Kind)+" is not known", "one of "+strings.Join(Kinds(), ", "))
		return errs
	}
	errs = append(errs, validate(d, "metadata", &gwv1.ResourceMetadata{Name: "x", Labels: d.Labels})...)
	r := reader{document: d, budget: budget}
	d.Spec = k.spec()
	if k.aliases != nil {
		spec = k.aliases(spec)
	}
	r.message(spec, d.Spec.ProtoReflect(), "spec")
	errs = append(errs, r.errs...)
	if len(r.errs) > 0 {
		return errs // a half-read spec would only give errors that follow from these
	}
	k.defaults(d.Spec)
	errs = append(errs, validate(d, "spec", d.Spec)...)
	if k.check != nil {
		errs = append(errs, k.check(d)...)
	}
	if len(errs) == 0 {
		if b, _ := d.Canonical(); len(b) > MaxSpec {
			fail("spec", CodeTooLarge, fmt.Sprintf("has %d bytes", len(b)), fmt.Sprintf("at most %d", MaxSpec))
		}
	}
	return errs
}

// validate checks the rules that the message's protobuf definition states.
func validate(d *Document, prefix string, m proto.Message) (errs Errors) {
	err := protovalidate.Validate(m)
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return Errors{d.errorAt(prefix, CodeInvalid, err.Error(), "")}
	}
	for _, v := range invalid.Violations {
		field := prefix
		if path := protovalidate.FieldPathString(v.Proto.GetField()); path != "" {
			field += "." + path
		}
		errs = append(errs, d.errorAt(field, CodeInvalid, "is not valid", ruleInWords(v)))
	}
	return errs
}

// ruleInWords says what a rule wants.
func ruleInWords(v *protovalidate.Violation) string {
	text := v.Proto.GetMessage()
	for _, lead := range []string{"value ", "must ", "be "} {
		text = strings.TrimPrefix(text, lead)
	}
	return text
}
