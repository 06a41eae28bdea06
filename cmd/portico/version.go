package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version and commit are set by the linker; a plain go build takes what the
// toolchain recorded.
var version, commit string

func versionNumber() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return cmp.Or(version, "(devel)")
}

func commitID() string {
	info, ok := debug.ReadBuildInfo()
	if commit != "" || !ok {
		return commit
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

func versionText() string {
	text := "portico " + versionNumber()
	if c := commitID(); c != "" {
		text += " commit " + c
	}
	return fmt.Sprintf("%s %s %s/%s", text, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionText())
			return err
		},
	}
}
