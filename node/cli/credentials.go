package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// credentials is what login remembers.
type credentials struct {
	Hub   string `json:"hub"`
	Token string `json:"token"`
	// CAPin is "sha256:…", "" where the system's own roots vouch for the hub or it speaks plain HTTP.
	CAPin     string    `json:"ca_pin,omitempty"`
	User      string    `json:"user,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// credentialsPath returns $XDG_CONFIG_HOME/gw/credentials.json, with $HOME/.config in place of an unset variable.
func (c *Context) credentialsPath() (string, error) {
	dir := c.env("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // the specification says to ignore relative paths
		home := c.env("HOME")
		if home == "" {
			return "", errors.New("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for credentials; set one, or use GW_ADDR and GW_TOKEN")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "gw", "credentials.json"), nil
}

// loadCredentials returns what login remembered, the zero value if that is nothing.
func (c *Context) loadCredentials() (credentials, error) {
	path, err := c.credentialsPath()
	if err != nil {
		return credentials{}, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return credentials{}, nil
	}
	if err != nil {
		return credentials{}, fmt.Errorf("read credentials: %w", err)
	}
	var saved credentials
	if err := json.Unmarshal(data, &saved); err != nil {
		return credentials{}, fmt.Errorf("read credentials %s: %w; log in again", path, err)
	}
	return saved, nil
}

// saveCredentials replaces the file in one step, readable by its owner alone.
func (c *Context) saveCredentials(saved credentials) (path string, err error) {
	path, err = c.credentialsPath()
	if err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(saved, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode credentials: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("save credentials: %w", err)
	}
	if err := writeFile(path, append(data, '\n')); err != nil {
		return "", fmt.Errorf("save credentials: %w", err)
	}
	return path, nil
}

func (c *Context) forgetCredentials() error {
	path, err := c.credentialsPath()
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget credentials: %w", err)
	}
	return nil
}
