package cli

import (
	"context"
	"errors"
)

// ClusterRecover is "gw cluster recover".
type ClusterRecover struct {
	DataDir string `required:"" placeholder:"DIR" help:"Data directory of the hub that shall go on alone. The hub must not run."`
	Yes     bool   `short:"y" help:"Don't ask."`
}

// Examples returns the examples of the command's help.
func (*ClusterRecover) Examples() string {
	return "gw cluster recover --data-dir /var/lib/gw\ngw cluster recover --data-dir /var/lib/gw --yes"
}

// lostQuorum explains what the command is for.
const lostQuorum = `A cluster that has lost most of its voters can't change anything any more, and no other hub may decide that for it. This
makes one hub the only voter, with what is on its own disk:
  - Choose the survivor whose log is longest; a change that only lost hubs had is gone, though it was acknowledged.
  - A change on this disk that was never acknowledged may become valid.
  - The other hubs must never again start with the data they have: there would be two clusters. Empty their data
    directories before they join anew.
If enough hubs can come back, start them instead: then nothing is lost.`

// Run recovers a hub's data directory, after explaining and asking.
func (r *ClusterRecover) Run(ctx context.Context, c *Context) error {
	if c.Recover == nil {
		return errors.New("this binary can't recover a hub")
	}
	c.say("%s", lostQuorum)
	var declined error
	err := c.Recover(ctx, r.DataDir, func(text string) (bool, error) {
		c.say("\n%s", text)
		if r.Yes {
			return true, nil
		}
		declined = c.confirm(ctx, "Make this hub the only voter", "--yes")
		if errors.Is(declined, errNotConfirmed) {
			return false, nil
		}
		return declined == nil, declined
	})
	if declined != nil {
		return declined
	}
	if err != nil {
		return err
	}
	c.say("Recovered. Start this hub as before, check it with gw cluster status, then grow the cluster again: gw join-token create --role hub")
	return nil
}
