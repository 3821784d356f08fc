// Gw is a control plane and gateway for AI and API traffic in one binary.
package main

import (
	"os"

	"gw/node"
)

func main() {
	os.Exit(node.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
