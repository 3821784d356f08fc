package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"gw/rpc/gwv1"
)

// JoinTokens is "gw join-token".
type JoinTokens struct {
	Create JoinTokensCreate `cmd:"" help:"Make a join token and print the command line of the edge or hub that uses it."`
	List   JoinTokensList   `cmd:"" help:"List join tokens, without their secrets."`
	Delete JoinTokensDelete `cmd:"" help:"Delete a join token; what enrolled with it stays."`
}

// Examples returns the examples of the command's help.
func (*JoinTokens) Examples() string {
	return `
gw join-token create
gw join-token create -n staging --label zone=eu --ttl 24h --uses 10
gw join-token create --role hub
gw join-token list`
}

// JoinTokensCreate is "gw join-token create".
type JoinTokensCreate struct {
	Role      string            `enum:"edge,hub" default:"edge" help:"What may enrol with it: edge, or hub for one more hub of the cluster."`
	Namespace string            `short:"n" help:"Namespace the edges shall live in; default: default."`
	Labels    map[string]string `name:"label" placeholder:"KEY=VALUE" help:"Labels the edges shall have; may be repeated."`
	TTL       time.Duration     `name:"ttl" placeholder:"DURATION" help:"When it expires, at most 87600h; default: 1h."`
	Uses      uint32            `placeholder:"N" help:"How many may enrol with it; default: 1."`
	Unlimited bool              `help:"Let any number enrol with it."`
	Ephemeral bool              `help:"Forget edges that enrolled with it after 24h away."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*JoinTokensCreate) Examples() string {
	return `
gw join-token create
gw join-token create -n staging --label zone=eu --label tier=web
gw join-token create --ttl 8760h --unlimited --ephemeral
gw join-token create --role hub --uses 2`
}

// Run makes a join token. The command line alone goes to stdout, so that a script can run it.
func (j *JoinTokensCreate) Run(ctx context.Context, c *Context) error {
	if j.Unlimited && j.Uses != 0 {
		return usageError("--unlimited and --uses contradict each other")
	}
	if j.Role == roleHub && (j.Namespace != "" || len(j.Labels) > 0 || j.Ephemeral) {
		return usageError("--namespace, --label and --ephemeral are for edges; hubs have none of them")
	}
	h, err := j.open(c)
	if err != nil {
		return err
	}
	req := &gwv1.CreateJoinTokenRequest{Role: j.Role, Namespace: j.Namespace, Labels: j.Labels, MaxUses: j.Uses, Unlimited: j.Unlimited, Ephemeral: j.Ephemeral}
	if j.TTL != 0 {
		req.Ttl = durationpb.New(j.TTL)
	}
	res, err := h.access.CreateJoinToken(ctx, req)
	if err != nil {
		return err
	}
	if !j.forPeople() {
		return j.one(c, res)
	}
	fmt.Fprintln(c.Stdout, printable(joinLine(res)))
	token, where := res.GetJoinToken(), ""
	if token.GetRole() != roleHub {
		where = " in " + token.GetNamespace()
	}
	c.say("Join token %s for %s%s, expires %s. The line above is shown this once.", token.GetId(), usesText(token), where, c.until(token.GetExpiresAt()))
	if token.GetRole() == roleHub {
		c.say("Run it on the new hub's machine, which the others must reach at its --advertise address. It votes once it has caught up; see: gw cluster status")
	}
	return nil
}

const roleHub = "hub"

// joinLine is the command line that uses a join token.
func joinLine(res *gwv1.CreateJoinTokenResponse) string {
	if res.GetJoinToken().GetRole() != roleHub {
		return fmt.Sprintf("gw edge --hub %s --join-token %s", strings.Join(res.GetHubUrls(), ","), res.GetCredential())
	}
	join := "https://HOST:50051" // only if the cluster doesn't know where it is
	if len(res.GetHubUrls()) > 0 {
		join = res.GetHubUrls()[0]
	}
	return fmt.Sprintf("gw hub --join %s --token %s", join, res.GetCredential())
}

func usesText(j *gwv1.JoinToken) string {
	what := "edge"
	if j.GetRole() == roleHub {
		what = "hub"
	}
	if j.GetMaxUses() == 0 {
		return "any number of " + what + "s"
	}
	return counted(j.GetMaxUses(), what)
}

// JoinTokensList is "gw join-token list".
type JoinTokensList struct {
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*JoinTokensList) Examples() string { return "gw join-token list\ngw join-token list -o json" }

// Run lists join tokens.
func (j *JoinTokensList) Run(ctx context.Context, c *Context) error {
	h, err := j.open(c)
	if err != nil {
		return err
	}
	res, err := h.access.ListJoinTokens(ctx, &gwv1.ListJoinTokensRequest{})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"JOIN TOKEN", "ROLE", "NAMESPACE", "LABELS", "USES", "EXPIRES", "CREATED"}}
	return list(&j.Output, c, res.GetJoinTokens(), "There are no join tokens. Make one with: gw join-token create", t, func(j *gwv1.JoinToken) {
		uses := fmt.Sprintf("%d of %d", j.GetUses(), j.GetMaxUses())
		if j.GetMaxUses() == 0 {
			uses = itoa(j.GetUses())
		}
		t.add(j.GetId(), j.GetRole(), j.GetNamespace(), pairs(j.GetLabels()), uses, c.until(j.GetExpiresAt()), c.ago(j.GetCreatedAt()))
	})
}

// JoinTokensDelete is "gw join-token delete".
type JoinTokensDelete struct {
	ID string `arg:"" name:"id" help:"The join token's ID."`
	Connection
}

// Examples returns the examples of the command's help.
func (*JoinTokensDelete) Examples() string { return "gw join-token delete 4k2m9x" }

// Run deletes a join token.
func (j *JoinTokensDelete) Run(ctx context.Context, c *Context) error {
	h, err := j.open(c)
	if err != nil {
		return err
	}
	if _, err := h.access.DeleteJoinToken(ctx, &gwv1.DeleteJoinTokenRequest{Id: j.ID}); err != nil {
		return err
	}
	c.say("Deleted join token %s.", j.ID)
	return nil
}
