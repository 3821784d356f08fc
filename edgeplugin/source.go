package edgeplugin

import (
	"embed"
	"io/fs"
)

// Plugins are built outside of gw's own repository, so gw carries the SDK's sources and gives them away with every new
// plugin. A plugin's own binary does not carry them: nothing in it refers to this variable.
//
//go:embed *.go pluginv1/*.go edgeplugintest/*.go examples/*/main.go template
var sources embed.FS

// Sources returns the text of this package and of the ones below it that plugins need, by their paths below it, the examples
// among them; and under "template" what "gw plugins new" makes a plugin of.
func Sources() fs.FS { return sources }
