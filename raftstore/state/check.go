package state

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// The checks below hold for every record in a state: Apply asks them before it keeps one, Decode before it believes
// one. Each returns what is wrong, or "".

const (
	maxText      = 1024 // notes, owners
	maxIDLength  = 128
	maxAddress   = 256
	maxLabels    = 64
	maxLabelText = 256
	maxList      = 1000 // targets, policies, namespaces of a user
)

// validID accepts what can be an ID or a person's name: it is printable, and has no zero bytes, which keys rely on.
func validID(s string) bool {
	return s != "" && len(s) <= maxIDLength && printable(s)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func validKind(s string) bool {
	if s == "" || len(s) > 32 || s[0] < 'A' || s[0] > 'Z' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

func nameProblem(what, s string) string {
	if resource.ValidName(s) {
		return ""
	}
	return fmt.Sprintf("%s %q: want %s", what, shown(s), resource.NameRule)
}

func idProblem(what, s string) string {
	if validID(s) {
		return ""
	}
	return fmt.Sprintf("%s %q: want 1 to %d printable characters", what, shown(s), maxIDLength)
}

func textProblem(what, s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) {
		return ""
	}
	return fmt.Sprintf("%s: want at most %d bytes of text", what, limit)
}

func hashProblem(what string, b []byte) string {
	if len(b) == sha256.Size {
		return ""
	}
	return fmt.Sprintf("%s: got %d bytes, want %d", what, len(b), sha256.Size)
}

func labelsProblem(labels map[string]string) string {
	if len(labels) > maxLabels {
		return fmt.Sprintf("%d labels: want at most %d", len(labels), maxLabels)
	}
	for k, v := range labels {
		if !validID(k) || len(v) > maxLabelText || !utf8.ValidString(v) {
			return "a label is too long or not text" // which one would depend on the order of a map
		}
	}
	return ""
}

func listProblem(what string, list []string) string {
	if len(list) > maxList || slices.ContainsFunc(list, func(s string) bool { return !validID(s) }) {
		return fmt.Sprintf("%s: want at most %d names", what, maxList)
	}
	return ""
}

// shown cuts what is quoted in a message.
func shown(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

func first(problems ...string) string {
	for _, p := range problems {
		if p != "" {
			return p
		}
	}
	return ""
}

func entryProblem(kind, name string, digest, spec []byte, secrets []string) string {
	if !validKind(kind) {
		return fmt.Sprintf("kind %q: want letters and digits, the first one upper case", shown(kind))
	}
	if p := first(nameProblem("name", name), hashProblem("digest", digest)); p != "" {
		return p
	}
	for i, s := range secrets {
		if p := nameProblem("secret", s); p != "" {
			return p
		}
		if i > 0 && secrets[i-1] >= s {
			return "secrets: want them sorted, each once"
		}
	}
	if d := resource.DigestOf(kind, name, spec); string(d[:]) != string(digest) {
		return fmt.Sprintf("%s/%s: the digest is not that of the spec", kind, name)
	}
	return ""
}

func validResource(r *gwv1.ResourceRecord) string {
	return first(nameProblem("namespace", r.Namespace), labelsProblem(r.Labels),
		entryProblem(r.Kind, r.Name, r.Digest, r.Spec, r.Secrets))
}

func validApp(r *gwv1.AppRecord) string {
	return first(nameProblem("namespace", r.Namespace), nameProblem("name", r.Name), idProblem("app ID", r.Id),
		textProblem("owner", r.Owner, maxText), listProblem("targets", r.Targets), listProblem("policies", r.Policies))
}

func validToken(r *gwv1.TokenRecord) string {
	return first(idProblem("token ID", r.Id), idProblem("app ID", r.AppId), hashProblem("token hash", r.Hash),
		textProblem("note", r.Note, maxText), textProblem("hint", r.Hint, maxIDLength))
}

func validSecret(r *gwv1.SecretRecord) string {
	p := first(nameProblem("namespace", r.Namespace), nameProblem("name", r.Name))
	if p == "" && len(r.Sealed) == 0 {
		return "a secret without a sealed value"
	}
	return p
}

// What a join token lets somebody be.
const (
	roleEdge = "edge"
	roleHub  = "hub"
)

func validJoinToken(r *gwv1.JoinTokenRecord) string {
	p := first(idProblem("join token ID", r.Id), labelsProblem(r.Labels), hashProblem("join token hash", r.SecretHash))
	if p != "" {
		return p
	}
	if r.ExpiresAt <= 0 {
		return "a join token must expire"
	}
	switch r.Role {
	case roleEdge:
		return edgeNamespaceProblem(r.Namespace)
	case roleHub:
		if r.Namespace != "" || len(r.Labels) > 0 || r.Ephemeral {
			return "a join token of role hub has no namespace and no labels, and hubs are not ephemeral"
		}
		return ""
	}
	return fmt.Sprintf("role %q: want \"edge\" or \"hub\"", shown(r.Role))
}

func validHub(r *gwv1.HubRecord) string {
	p := first(idProblem("hub ID", r.Id), textProblem("address", r.Address, maxAddress), textProblem("version", r.Version, maxText))
	if p == "" && !printable(r.Address) {
		return "address: want host:port"
	}
	return p
}

func edgeNamespaceProblem(namespace string) string {
	if namespace == resource.Global {
		return "edges can't live in \"global\""
	}
	return nameProblem("namespace", namespace)
}

// EdgeProblem says why an edge can't be registered or updated like this; "" if it can.
func EdgeProblem(r *gwv1.EdgeRecord) string { return validEdge(r) }

func validEdge(r *gwv1.EdgeRecord) string {
	p := first(nameProblem("edge ID", r.Id), edgeNamespaceProblem(r.Namespace), labelsProblem(r.Labels),
		textProblem("version", r.Version, maxText), textProblem("build", r.Build, maxText),
		textProblem("certificate serial", r.CertificateSerial, maxIDLength), validFailure(r.Failure))
	if p == "" && len(r.LoadedChecksum) > 0 {
		p = hashProblem("loaded checksum", r.LoadedChecksum)
	}
	return p
}

func validRevocation(r *gwv1.RevocationRecord) string {
	return first(nameProblem("edge ID", r.EdgeId), actorProblem(r.By))
}

func validUser(r *gwv1.UserRecord) string {
	p := first(idProblem("user name", r.Name), textProblem("password hash", r.PasswordHash, maxText),
		listProblem("namespaces", r.Namespaces))
	if p == "" && !slices.Contains([]string{"viewer", "operator", "admin"}, r.Role) {
		return fmt.Sprintf("role %q: want viewer, operator or admin", shown(r.Role))
	}
	return p
}

func validSession(r *gwv1.SessionRecord) string {
	return first(idProblem("user name", r.User), hashProblem("session hash", r.TokenHash))
}

func validAccessChange(r *gwv1.AccessChangeRecord) string {
	if r.Change == nil {
		return "an access change that says nothing"
	}
	return ""
}

func validIdempotency(r *gwv1.IdempotencyRecord) string {
	if r.Result == nil {
		return "an idempotency key without a result"
	}
	return first(actorProblem(r.Actor), idProblem("idempotency key", r.Key), hashProblem("command hash", r.CommandSha256))
}

func actorProblem(s string) string {
	if len(s) <= maxText && printable(s) {
		return ""
	}
	return "actor: want printable text"
}

func validStaged(r *gwv1.StagedBlob) string {
	p := first(idProblem("stage", r.Stage), hashProblem("blob hash", r.Sha256))
	if p == "" && sha256.Sum256(r.Blob) != [32]byte(r.Sha256) {
		return "a staged blob is not what its hash says"
	}
	return p
}
