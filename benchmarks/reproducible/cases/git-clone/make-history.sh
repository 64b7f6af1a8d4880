set -e
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.org
git init --quiet --initial-branch=main "$1"
cd "$1"
for number in 1 2 3 4 5; do
    seq 1 "${number}000" > "file$number"
    git add .
    GIT_AUTHOR_DATE="2001-01-0${number}T00:00:00Z" GIT_COMMITTER_DATE="2001-01-0${number}T00:00:00Z" git commit --quiet -m "commit $number"
done
git gc --quiet
