# Completion for bash: the verbs of istio-hostagent, and the options of the verb that is there.
_istio_hostagent() {
    local words=''
    if [ "$COMP_CWORD" -eq 1 ]; then
        words='status wait config plan explain verify apply clean reload renew run --version'
    else
        case ${COMP_WORDS[1]} in
            apply) words='--quiet --confirm-within --confirm --go-back' ;;
            clean) words='--all --quiet' ;;
            config) words='--explain --json' ;;
            explain) words='--from-user --from-group --from --interface --live --json' ;;
            plan | status) words='--json' ;;
            run) words='--debug' ;;
            verify) words='--json --verbose' ;;
            wait) words='--timeout' ;;
        esac
    fi
    # shellcheck disable=SC2207 # no word has a space
    COMPREPLY=($(compgen -W "$words --help" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _istio_hostagent istio-hostagent
