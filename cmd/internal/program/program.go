// Package program is what our commands have in common: flags with environment
// variables beside them, exit codes, the log, the version, the way to an
// apiserver.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes.
const (
	ExitFailure = 1
	ExitUsage   = 2
)

// Streams are the standard streams of a process.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Main runs a command in this process until it ends or is told to, and exits.
func Main(newRoot func() *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once: the user has lost patience.
	context.AfterFunc(ctx, stop)
	os.Exit(Run(ctx, newRoot(), os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}

// Run runs a command with these arguments, says on std.Err what went wrong, and
// returns the exit code.
func Run(ctx context.Context, root *cobra.Command, args []string, std Streams) int {
	prepare(root)
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	err := root.ExecuteContext(ctx)
	var coded *CodedError
	switch {
	case err == nil:
		return 0
	case strings.HasPrefix(err.Error(), "unknown command"): // cobra has no type for it
		// Its suggestions come on lines of their own.
		fmt.Fprintf(std.Err, "%s: %s\nsee %s --help\n", root.Name(), strings.TrimSpace(err.Error()), root.Name())
		return ExitUsage
	case errors.As(err, &coded):
		if coded.Err != nil {
			fmt.Fprintf(std.Err, "%s: %v\n", root.Name(), coded.Err)
		}
		return coded.Code
	}
	fmt.Fprintf(std.Err, "%s: %v\n", root.Name(), err)
	return ExitFailure
}

// NoArgs refuses arguments.
func NoArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasAvailableSubCommands() {
		return fmt.Errorf("unknown command %q; see %s --help", args[0], c.CommandPath())
	}
	return fmt.Errorf("unexpected argument %q: %s takes none, and the value of a flag may need \"=\" (--flag=value); see %s --help", args[0], c.CommandPath(), c.CommandPath())
}

// prepare lets environment variables stand in for flags, in a command and in its
// subcommands, and makes faults of the command line exit with ExitUsage.
func prepare(cmd *cobra.Command) {
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.CompletionOptions = cobra.CompletionOptions{HiddenDefaultCmd: true}
	describeEnv(cmd.Flags())
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return UsageError(fmt.Errorf("%w; see %s --help", err, c.CommandPath()))
	})
	if next := cmd.RunE; next != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if err := readEnv(c.Flags(), os.LookupEnv); err != nil {
				return UsageError(err)
			}
			return next(c, args)
		}
	}
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, a []string) error { return UsageError(args(c, a)) }
	}
	for _, sub := range cmd.Commands() {
		prepare(sub)
	}
}

// CodedError carries an exit code; Err may be nil where everything was said.
type CodedError struct {
	Code int
	Err  error
}

func (e *CodedError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *CodedError) Unwrap() error { return e.Err }

// UsageError has the process exit with ExitUsage; nil stays nil.
func UsageError(err error) error {
	if err == nil {
		return nil
	}
	return &CodedError{Code: ExitUsage, Err: err}
}

// FlagError names the flag and its variable, so that both can be found.
func FlagError(flag string, err error) error {
	return fmt.Errorf("--%s ($%s): %w", flag, EnvName(flag), err)
}

// EnvName returns the environment variable of a flag.
func EnvName(flag string) string {
	return "PORTICO_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func describeEnv(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) { f.Usage += " [$" + EnvName(f.Name) + "]" })
}

// readEnv sets every flag that was not given from its variable.
func readEnv(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := lookup(EnvName(f.Name))
		if f.Changed || !ok || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", EnvName(f.Name), err))
		}
	})
	return errors.Join(errs...)
}
