package cli

import (
	"context"
	"fmt"
	"strings"

	"gw/rpc/gwv1"
)

// Users is "gw users".
type Users struct {
	List     UsersList     `cmd:"" help:"List who may sign in."`
	Create   UsersCreate   `cmd:"" help:"Make a user. A password that was made is printed this once."`
	Role     UsersRole     `cmd:"" name:"set-role" help:"Change what a user may do."`
	Password UsersPassword `cmd:"" name:"set-password" help:"Change a password, and end its user's sessions."`
	Delete   UsersDelete   `cmd:"" help:"Delete a user and end its sessions."`
}

// Examples returns the examples of the command's help.
func (*Users) Examples() string {
	return `
gw users list
gw users create ann --role operator -n eu,us
gw users set-role ann viewer
gw users set-password
gw users delete ann`
}

// roleHelp says what roles there are.
const roleHelp = "viewer reads; operator also saves, pushes and handles apps and tokens; admin does the rest."

// UsersList is "gw users list".
type UsersList struct {
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*UsersList) Examples() string { return "gw users list\ngw users list -o json" }

// Run lists users.
func (u *UsersList) Run(ctx context.Context, c *Context) error {
	h, err := u.open(c)
	if err != nil {
		return err
	}
	res, err := h.access.ListUsers(ctx, &gwv1.ListUsersRequest{})
	if err != nil {
		return err
	}
	t := &table{headings: []string{"USER", "ROLE", "NAMESPACES", "SESSIONS", "CREATED"}}
	return list(&u.Output, c, res.GetUsers(), "There are no users.", t, func(u *gwv1.User) {
		t.add(u.GetName(), u.GetRole(), namespacesText(u.GetNamespaces()), itoa(u.GetSessions()), c.ago(u.GetCreatedAt()))
	})
}

func namespacesText(names []string) string {
	if len(names) == 0 {
		return "all"
	}
	return strings.Join(names, " ")
}

// UsersCreate is "gw users create".
type UsersCreate struct {
	Name         string   `arg:"" help:"The user's name."`
	Role         string   `enum:"viewer,operator,admin" default:"viewer" placeholder:"ROLE" help:"viewer, operator or admin."`
	Namespaces   []string `short:"n" name:"namespace" placeholder:"NAME" help:"Only in these namespaces; default: in all."`
	PasswordFile string   `placeholder:"FILE" help:"Take the password from a file, - for standard input; default: one is made."`
	Output
	Connection
}

// Examples returns the examples of the command's help.
func (*UsersCreate) Examples() string {
	return "gw users create ann\ngw users create ann --role operator -n eu,us\npass show gw/ann | gw users create ann --password-file -"
}

// Run makes a user. A password that was made alone goes to stdout, so that a script can take it.
func (u *UsersCreate) Run(ctx context.Context, c *Context) error {
	req := &gwv1.CreateUserRequest{Name: u.Name, Role: u.Role, Namespaces: u.Namespaces}
	h, err := u.open(c)
	if err != nil {
		return err
	}
	if u.PasswordFile != "" {
		if req.Password, err = c.readValue(u.PasswordFile, maxPassword); err != nil {
			return err
		}
	}
	res, err := h.access.CreateUser(ctx, req)
	if err != nil {
		return err
	}
	if !u.forPeople() {
		return u.one(c, res)
	}
	what := fmt.Sprintf("Made user %s, %s in %s.", res.GetUser().GetName(), res.GetUser().GetRole(), namespacesText(res.GetUser().GetNamespaces()))
	if res.GetPassword() == "" {
		c.say("%s", what)
		return nil
	}
	fmt.Fprintln(c.Stdout, printable(res.GetPassword()))
	c.say("%s The password above is shown this once; it can be changed with: gw users set-password", what)
	return nil
}

// UsersRole is "gw users set-role".
type UsersRole struct {
	Name       string   `arg:"" help:"The user's name."`
	Role       string   `arg:"" enum:"viewer,operator,admin" help:"viewer, operator or admin."`
	Namespaces []string `short:"n" name:"namespace" placeholder:"NAME" help:"Only in these namespaces; default: in all."`
	Connection
}

// Examples returns the examples of the command's help.
func (*UsersRole) Examples() string {
	return "gw users set-role ann admin\ngw users set-role ann operator -n eu"
}

// Help says what roles there are.
func (*UsersRole) Help() string { return roleHelp }

// Run changes a role.
func (u *UsersRole) Run(ctx context.Context, c *Context) error {
	h, err := u.open(c)
	if err != nil {
		return err
	}
	res, err := h.access.SetUserRole(ctx, &gwv1.SetUserRoleRequest{Name: u.Name, Role: u.Role, Namespaces: u.Namespaces})
	if err != nil {
		return err
	}
	c.say("User %s is %s in %s now.", res.GetUser().GetName(), res.GetUser().GetRole(), namespacesText(res.GetUser().GetNamespaces()))
	return nil
}

// UsersPassword is "gw users set-password".
type UsersPassword struct {
	Name         string `arg:"" optional:"" help:"The user's name; default: yourself."`
	PasswordFile string `placeholder:"FILE" help:"Take the new password from a file, - for standard input; default: ask."`
	CurrentFile  string `placeholder:"FILE" help:"Take your current password from a file; default: ask. Needed for your own."`
	Connection
}

// Examples returns the examples of the command's help.
func (*UsersPassword) Examples() string {
	return "gw users set-password\ngw users set-password ann\npass show gw/ann | gw users set-password ann --password-file -"
}

// Run changes a password, after asking for it.
func (u *UsersPassword) Run(ctx context.Context, c *Context) error {
	h, err := u.open(c)
	if err != nil {
		return err
	}
	who, err := h.access.WhoAmI(ctx, &gwv1.WhoAmIRequest{})
	if err != nil {
		return err
	}
	req := &gwv1.SetPasswordRequest{Name: u.Name}
	if u.Name == "" || u.Name == who.GetUser() {
		if req.CurrentPassword, err = c.password(ctx, u.CurrentFile, "--current-file", "Your current password: ", false); err != nil {
			return err
		}
	}
	if req.Password, err = c.password(ctx, u.PasswordFile, "--password-file", "New password: ", true); err != nil {
		return err
	}
	if _, err := h.access.SetPassword(ctx, req); err != nil {
		return err
	}
	name := who.GetUser()
	if u.Name != "" {
		name = u.Name
	}
	c.say("Changed the password of %s. All sessions of that user have ended: gw login", name)
	return nil
}

// password takes a password from a file, or asks for it; a new one twice.
func (c *Context) password(ctx context.Context, file, flag, question string, twice bool) (string, error) {
	if file != "" {
		return c.readValue(file, maxPassword)
	}
	if !c.interactive() {
		return "", usageError("there is no terminal to ask for a password on; give %s", flag)
	}
	first, err := c.askSecret(ctx, question)
	if err != nil || !twice {
		return first, err
	}
	second, err := c.askSecret(ctx, "The same again: ")
	if err == nil && first != second {
		err = fmt.Errorf("the two are not the same; %w", errNotConfirmed)
	}
	return first, err
}

// UsersDelete is "gw users delete".
type UsersDelete struct {
	Name string `arg:"" help:"The user's name."`
	Yes  bool   `short:"y" env:"-" help:"Don't ask."`
	Connection
}

// Examples returns the examples of the command's help.
func (*UsersDelete) Examples() string { return "gw users delete ann\ngw users delete ann --yes" }

// Run deletes a user, after asking.
func (u *UsersDelete) Run(ctx context.Context, c *Context) error {
	h, err := u.open(c)
	if err != nil {
		return err
	}
	if !u.Yes {
		if err := c.confirm(ctx, fmt.Sprintf("Delete user %s and end its sessions", u.Name), "--yes"); err != nil {
			return err
		}
	}
	if _, err := h.access.DeleteUser(ctx, &gwv1.DeleteUserRequest{Name: u.Name}); err != nil {
		return err
	}
	c.say("Deleted user %s.", u.Name)
	return nil
}
