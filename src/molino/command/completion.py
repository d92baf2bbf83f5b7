"""Completion in shells: the script that one's shell reads. It asks `molino complete <line>` at each tab.

Hydra has completion of its own, for programs whose every word is a setting. Here the first word is a verb.
"""

SHELLS = {
    # Bash takes = and : for ends of words, unless it has been told otherwise, and wants what comes after.
    "bash": """\
_molino() {
    local line=${COMP_LINE:0:COMP_POINT} candidate word kept=""
    word=${line##*[[:space:]]}
    [[ $COMP_WORDBREAKS == *=* ]] && kept=${word%"${word##*[=:]}"}
    COMPREPLY=()
    while IFS= read -r candidate; do
        COMPREPLY+=("${candidate#"$kept"}")
    done < <(molino complete "$line" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *[=./] ]] || compopt -o nospace
}
complete -o default -F _molino molino
""",
    "zsh": """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_molino() {
    local -a candidates
    candidates=("${(@f)$(molino complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    (( ${#candidates[1]} )) && compadd -Q -S '' -- "${candidates[@]}" || _files
}
compdef _molino molino
""",
    "fish": """\
complete -c molino -f -a '(molino complete (commandline -cp) 2>/dev/null)'
""",
}
