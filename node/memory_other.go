//go:build !linux

package node

// dropText is for Linux only.
func dropText() {}
