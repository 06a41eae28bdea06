// Command portico is a Kubernetes ingress controller: it serves what Ingress
// objects ask for, from a cluster or from a folder of manifests, and explains
// why a request goes where it goes.
package main

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

// Exit codes. explain exits with exitNotRouted where a request is not routed
// to a ready endpoint.
const (
	exitFailure   = 1
	exitNotRouted = 1
	exitUsage     = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once: the user has lost patience.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are the standard streams of the process.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func run(ctx context.Context, args []string, std streams) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	err := root.ExecuteContext(ctx)
	var coded *codedError
	switch {
	case err == nil:
		return 0
	case strings.HasPrefix(err.Error(), "unknown command"): // cobra has no type for it
		fmt.Fprintf(std.err, "portico: %v; see portico --help\n", err)
		return exitUsage
	case errors.As(err, &coded):
		if coded.err != nil {
			fmt.Fprintln(std.err, "portico:", coded.err)
		}
		return coded.code
	}
	fmt.Fprintln(std.err, "portico:", err)
	return exitFailure
}

// codedError carries an exit code; err may be nil where everything was said.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *codedError) Unwrap() error { return e.err }

func usageError(err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code: exitUsage, err: err}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "portico",
		Short: "A Kubernetes ingress controller that says why",
		Long: `Portico serves what Ingress objects ask for: it terminates TLS and forwards
to ready endpoints, without ever reloading.

  portico serve       from a folder of manifests, without a cluster
  portico controller  from a Kubernetes cluster
  portico explain     why a request goes where it goes
  portico cert        which certificates are served, and how new ones get on
  portico convert     old manifests in their current form
  portico prove       that a rolling update loses no request, in your cluster

Every flag can be given by an environment variable: PORTICO_ and the flag's
name in capitals, "-" as "_". A flag goes before its variable; lists are
separated by commas.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(newServe(), newController(), newExplain(), newCert(), newConvert(), newProve(), newClearStatus(), newVersion())
	for _, cmd := range root.Commands() {
		prepare(cmd)
		for _, sub := range cmd.Commands() {
			prepare(sub)
		}
	}
	return root
}

// prepare has a command read its flags from the environment too, and end with
// exitUsage where it is used wrongly.
func prepare(cmd *cobra.Command) {
	describeEnv(cmd.Flags())
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; see %s --help", err, c.CommandPath()))
	})
	next := cmd.RunE
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if err := readEnv(c.Flags(), os.LookupEnv); err != nil {
			return usageError(err)
		}
		return next(c, args)
	}
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, a []string) error { return usageError(args(c, a)) }
	}
}

// noArgs refuses arguments where files are named by a flag.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q: name files and folders with -f", args[0])
	}
	return nil
}

// envName returns the environment variable of a flag.
func envName(flag string) string {
	return "PORTICO_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func describeEnv(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) { f.Usage += " [$" + envName(f.Name) + "]" })
}

// readEnv sets every flag that was not given from its variable.
func readEnv(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := lookup(envName(f.Name))
		if f.Changed || !ok || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", envName(f.Name), err))
		}
	})
	return errors.Join(errs...)
}
