package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/manifest"
)

func newConvert() *cobra.Command {
	var paths []string
	cmd := &cobra.Command{
		Use:   "convert -f DIR|FILE|-",
		Short: "Print Ingress manifests in their current form",
		Long: `Convert reads manifests of Ingresses and IngressClasses, extensions/v1beta1 and
networking.k8s.io/v1beta1 among them, and prints them as networking.k8s.io/v1,
ready for kubectl apply. Objects of other kinds are left out, which is said on
standard error. Nothing is printed if one of these two kinds has a fault.`,
		Example: "  portico convert -f old.yaml | kubectl apply -f -",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return convert(paths, program.Streams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
		},
	}
	cmd.Flags().StringSliceVarP(&paths, "filename", "f", nil, "folder, file, or - for standard input; repeatable")
	return cmd
}

func convert(paths []string, std program.Streams) error {
	if len(paths) == 0 {
		return program.UsageError(program.FlagError("filename", fmt.Errorf("name a folder or file of manifests, or - for standard input")))
	}
	set, faults := manifest.LoadFrom(std.In, paths...)
	faults = slices.DeleteFunc(faults, func(f manifest.Fault) bool {
		kind := f.Object.Kind
		return kind != "" && kind != "Ingress" && kind != "IngressClass" // left out
	})
	for _, f := range faults {
		fmt.Fprintln(std.Err, f)
	}
	if len(faults) > 0 {
		return program.UsageError(fmt.Errorf("faults in the manifests: %d", len(faults)))
	}
	if len(set.Ingresses)+len(set.Classes) == 0 {
		return program.UsageError(fmt.Errorf("there is no Ingress and no IngressClass in the manifests"))
	}
	var documents [][]byte
	for _, c := range set.Classes {
		text, err := set.CurrentClass(c)
		if err != nil {
			return err
		}
		documents = append(documents, text)
	}
	for _, ing := range set.Ingresses {
		text, err := set.CurrentForm(ing)
		if err != nil {
			return err
		}
		documents = append(documents, text)
	}
	if others := set.Others(); len(others) > 0 {
		fmt.Fprintf(std.Err, "left out: %s\n", strings.Join(others, ", "))
	}
	_, err := std.Out.Write(bytes.Join(documents, []byte("---\n")))
	return err
}
