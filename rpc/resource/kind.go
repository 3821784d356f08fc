package resource

import (
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
)

// kind is all there is to know of one kind of resource.
type kind struct {
	name string
	spec func() proto.Message
	// defaults makes explicit what was left out, so that a later version with other defaults changes nothing saved.
	defaults func(proto.Message)
	// secrets lists the names of the secrets a spec refers to.
	secrets func(proto.Message) []*gwv1.Credential
	// aliases gives fields that are written in another way their own names; nil: there are none. It doesn't change n.
	aliases func(n *yaml.Node) *yaml.Node
	// check says what is wrong that no rule of a single field can; nil: nothing can be.
	check func(d *Document) Errors
}

var kinds = []kind{
	{
		name:     "API",
		spec:     func() proto.Message { return new(gwv1.APISpec) },
		defaults: func(m proto.Message) { apiDefaults(m.(*gwv1.APISpec)) },
		secrets:  func(m proto.Message) []*gwv1.Credential { return []*gwv1.Credential{m.(*gwv1.APISpec).Credential} },
	},
	{
		name:     "LLM",
		spec:     func() proto.Message { return new(gwv1.LLMSpec) },
		defaults: func(m proto.Message) { llmDefaults(m.(*gwv1.LLMSpec)) },
		secrets:  func(m proto.Message) []*gwv1.Credential { return []*gwv1.Credential{m.(*gwv1.LLMSpec).Credential} },
	},
	{
		name:     "Plugin",
		spec:     func() proto.Message { return new(gwv1.PluginSpec) },
		defaults: func(m proto.Message) { pluginDefaults(m.(*gwv1.PluginSpec)) },
		secrets:  func(proto.Message) []*gwv1.Credential { return nil },
		aliases:  pluginAliases,
		check:    checkPlugin,
	},
}

// Kinds returns the names of all kinds, sorted.
func Kinds() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
}

func kindNamed(name string) (kind, bool) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		return kind{}, false
	}
	return kinds[i], true
}

// kindOf returns the kind a spec is of.
func kindOf(spec proto.Message) (kind, bool) {
	name, isSpec := strings.CutSuffix(string(spec.ProtoReflect().Descriptor().Name()), "Spec")
	k, ok := kindNamed(name)
	return k, ok && isSpec
}

// Secrets returns the names of the secrets a spec refers to, sorted, each once.
func Secrets(spec proto.Message) []string {
	k, ok := kindOf(spec)
	if !ok {
		return nil
	}
	var names []string
	for _, c := range k.secrets(spec) {
		if c.GetSecret() != "" {
			names = append(names, c.GetSecret())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func apiDefaults(s *gwv1.APISpec) {
	if s.Auth == gwv1.Auth_AUTH_UNSPECIFIED {
		s.Auth = gwv1.Auth_AUTH_TOKEN
	}
	for _, u := range s.Upstreams {
		if u.Weight == nil {
			u.Weight = proto.Uint32(1)
		}
	}
	s.Timeouts = timeoutDefaults(s.Timeouts, 30*time.Second, time.Minute)
	credentialDefaults(s.Credential)
}

func llmDefaults(s *gwv1.LLMSpec) {
	if s.Dialect == gwv1.Dialect_DIALECT_UNSPECIFIED {
		s.Dialect = gwv1.Dialect_DIALECT_OPENAI
	}
	s.Timeouts = timeoutDefaults(s.Timeouts, 10*time.Minute, 5*time.Minute)
	credentialDefaults(s.Credential)
}

func timeoutDefaults(t *gwv1.Timeouts, responseHeader, idle time.Duration) *gwv1.Timeouts {
	if t == nil {
		t = new(gwv1.Timeouts)
	}
	if t.Connect == nil {
		t.Connect = durationpb.New(5 * time.Second)
	}
	if t.ResponseHeader == nil {
		t.ResponseHeader = durationpb.New(responseHeader)
	}
	if t.Idle == nil {
		t.Idle = durationpb.New(idle)
	}
	return t
}

func credentialDefaults(c *gwv1.Credential) {
	if c == nil {
		return
	}
	if c.Header == "" {
		c.Header = "Authorization"
	}
	if c.Prefix == nil {
		c.Prefix = proto.String("")
		if strings.EqualFold(c.Header, "Authorization") {
			c.Prefix = proto.String("Bearer ")
		}
	}
}
